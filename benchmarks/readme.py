"""Writes the figures and pictures of README.md and docs/ from their sources.

python -m benchmarks.readme [--digits RUN RUN ...] [--fashion_mnist RUN ...] ...

A generated text is between `<!-- NAME: ... -->` and `<!-- end of NAME -->`.
Results come from docs/results/, costs from the configs as --mode=plan counts
them, and properties of samplers from their table. A flag first replaces the
files docs/results/NAME/seed_*.json with the reports of finished runs, which
differ in their seed, and draws their pictures. tests/test_docs.py checks that
nothing is out of date.
"""

import argparse
import functools
import importlib
import inspect
import json
import pathlib
import re
import shutil
import statistics
import textwrap

from matplotlib.figure import Figure

from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.generation.grids import grid, read_grid, to_image
from diffusion_distillation.report import labels, paper, plots, result, seeds
from diffusion_distillation.samplers import GRIDS, SAMPLERS, make_sampler
from diffusion_distillation.training import plan
from diffusion_distillation.training.config import check

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'docs' / 'results'
# The configs of the paper's models, and which of them docs/scaling.md has.
PAPER = (
  'cifar10_distill',
  'imagenet64_distill',
  'lsun_bedroom128_distill',
  'lsun_church128_distill',
)
SCALING = ('digits_distill', 'folder_distill', *PAPER[:3])
# Runs whose results are shown: name of the folder in docs/results -> title.
RUNS = {
  'digits': 'Digits, 8x8',
  'fashion_mnist14': 'Fashion-MNIST, averaged to 14x14',
  'fashion_mnist': 'Fashion-MNIST, 28x28',
}
# Images in a row of the picture of samples.
_SHOWN = 12
# Columns of the table that compares samplers.
_NFE = (4, 8, 16)
# Its figures, in the order of a cell, and their errors.
_COMPARED = {
  'frechet_distance': 'frechet_distance_error',
  'precision': None,
  'teacher_rmse': None,
}
# Its pictures in docs/: what the distance is drawn against, and the file.
_COMPARISON = {
  'nfe': 'samplers_vs_nfe.png',
  'seconds': 'samplers_vs_seconds.png',
}


def blocks():
  """Returns the generated texts, (file, name) -> function that returns one."""
  return {
    ('README.md', 'results'): results,
    ('docs/results.md', 'runs'): runs,
    ('README.md', 'paper'): paper_models,
    ('docs/samplers.md', 'samplers'): samplers,
    ('docs/samplers.md', 'grids'): grids,
    ('docs/samplers.md', 'digits'): digits_by_sampler,
    ('docs/samplers.md', 'comparison'): comparison,
    ('docs/evaluation.md', 'metrics'): metric_check,
    ('docs/studies.md', 'studies'): studies,
    ('docs/scaling.md', 'cost'): cost,
  }


def split(text, name):
  """Returns a file's text before a block, the block, and the text after it.

  Raises:
    ValueError: the file does not have exactly one such block.
  """
  begin, end = rf'<!-- {name}:[^>]*-->\n', rf'<!-- end of {name} -->'
  parts = re.split(f'({begin})(.*?)({end})', text, flags=re.DOTALL)
  if len(parts) != 5:
    raise ValueError(f'the file must have one block {name!r}')
  return parts[0] + parts[1], parts[2], parts[3] + parts[4]


def update():
  """Writes all generated texts into their files."""
  for (file, name), make in blocks().items():
    path = ROOT / file
    before, _, after = split(path.read_text(), name)
    path.write_text(f'{before}{make()}{after}')


def results():
  """Returns the table of README.md: what each run costs and reaches."""
  lines = []
  for name in _published():
    report = _read_report(name)
    rows = _by_network(report)
    reference = _reference(report)
    wanted = [
      reference,
      *(rows.get(('student', n), {}) for n in (4, 1)),
      rows.get(('teacher', 4), {}),
    ]
    distances = [
      _figures([row], 'frechet_distance', 'frechet_distance_error')[0]
      for row in wanted
    ]
    count = report.get('num_runs', 1)
    data = f'{RUNS[name]}; {count} {"seeds" if count > 1 else "seed"}'
    lines.append((data, _budget(report), *distances))
  # The paper's budget is in its section 5.2 and appendix E, its time in the
  # README of the original program.
  fid = paper.curves({'label': 'FID', 'dataset': 'cifar10'})
  student, teacher = fid['student', 'ddim'], fid['teacher', 'ddim']
  lines.append(
    (
      'CIFAR-10, the paper, FID',
      '198M images, about a day on 8 TPUv4',
      f'{teacher[512]:.2f}',
      f'{student[4]:.2f}',
      f'{student[1]:.2f}',
      'above 20',
    )
  )
  heading = [
    'data',
    'training of teacher and students',
    'teacher, DDIM, all steps',
    'student, 4 steps',
    'student, 1 step',
    'teacher, DDIM, 4 steps',
  ]
  return _table(heading, *zip(*lines, strict=True), align='llrrrr')


def runs():
  """Returns docs/results.md: a sentence, a table and pictures of each run."""
  return '\n'.join(f'## {RUNS[name]}\n\n{_run(name)}' for name in _published())


def _published():
  return [name for name in RUNS if (RESULTS / name).exists()]


def _by_network(report):
  """Returns (network, number of steps) -> row sampled by DDIM."""
  return {
    (row['network'], row['num_steps']): row
    for row in report['rows']
    if row['sampler'] == 'ddim'
  }


def _reference(report):
  return next(row for row in report['rows'] if row['is_reference'])


def _budget(report):
  """Returns images and time of all trainings of a report's first run."""
  config, images = report['config'], 0
  for each in report['rounds']:
    is_teacher = each['name'] == 'teacher'
    train = config['teacher']['train'] if is_teacher else config['train']
    images += each['updates'] * train['batch_size']
  hours = sum(each['seconds'] for each in report['rounds']) / 3600
  hardware = report['hardware']
  where = f'{hardware["cores"]} cores of {hardware["cpu"]}'
  return f'{images / 1e6:.1f}M images, {hours:.2g} hours on {where}'


def _run(name):
  """Returns the result of a run: a sentence, a table, its terms, pictures."""
  report = _read_report(name)
  rows = _by_network(report)
  counts = sorted({num_steps for _, num_steps in rows})
  students = [rows.get(('student', n), {}) for n in counts]
  teachers = [rows.get(('teacher', n), {}) for n in counts]
  start = _reference(report)['num_steps']
  text = _table(
    ['steps', 'student', 'teacher', f'student / teacher at {start} steps'],
    map(str, counts),
    _figures(students, 'frechet_distance', 'frechet_distance_error'),
    _figures(teachers, 'frechet_distance', 'frechet_distance_error'),
    _figures(students, 'ratio', 'ratio_error'),
  )
  metric = report['metric']
  sentence = textwrap.fill(result.sentences(report)[0], 80)
  terms = textwrap.fill(
    f'Frechet distance (lower is better) of {metric["num_samples"]:,} samples '
    f'in the features of {metric["features"]}, {_spread(report)}. Real images '
    f'({metric["heldout"]}) are at {report["floor"]:.2f}; few images have a '
    'larger distance. '
    f'{_budget(report)}; JAX {report["versions"]["jax"]}, '
    f'{report["date"][:10]}.',
    80,
  )
  command = textwrap.indent(report['command'], '    ')
  return (
    f'{sentence}\n\n{text}\n{terms}\n\n{command}\n\n'
    f'![Frechet distance against sampling steps](results/{name}/curve.png)\n\n'
    f'![Samples of teacher and students](results/{name}/samples.png)\n'
  )


def studies():
  """Returns the tables of docs/results/studies."""
  texts = []
  for path in sorted((RESULTS / 'studies').glob('*.json')):
    texts.append(_study(json.loads(path.read_text())))
  return '\n'.join(texts)


def _study(found):
  """Returns the heading, the conditions and the table of one study."""
  columns, variants = found['columns'], {}
  for row in found['rows']:
    variants.setdefault(row['variant'], []).append(row)
  cells = [
    [
      _mean([row[column] for row in rows if column in row])
      for rows in variants.values()
    ]
    for column in columns
  ]
  runs = {len(rows) for rows in variants.values()}
  what = f'mean of {min(runs)} seeds ± standard deviation'
  if runs == {1}:
    what = 'one seed'
  terms = textwrap.fill(
    f'Frechet distance of {found["metric"]["num_samples"]:,} samples, {what}; '
    f'made on {found["hardware"]["cores"]} cores of '
    f'{found["hardware"]["cpu"]}, JAX {found["versions"]["jax"]}, '
    f'{found["date"][:10]}.',
    80,
  )
  table = _table(['', *columns], variants, *cells)
  return f'### {found["question"]} (`{found["config"]}`)\n\n{terms}\n\n{table}'


def _mean(values):
  """Returns mean and deviation as text; None stands for a failed training."""
  known = [value for value in values if value is not None]
  failed = len(values) - len(known)
  if not known:
    return 'N/A' if failed else '\N{EN DASH}'
  text = labels.number(known[0])
  if len(known) > 1:
    error = statistics.stdev(known)
    text = labels.numbers([statistics.fmean(known)], 2, [error])[0]
  return f'{text} ({failed} failed)' if failed else text


def metric_check():
  """Returns the table of metrics of damaged real images."""
  texts = []
  for path in sorted((RESULTS / 'metrics').glob('*.json')):
    found = json.loads(path.read_text())
    metric, rows = found['metric'], found['rows']
    keys = [key for key in labels.COLUMNS if key in rows['held out']]
    columns = [labels.column(list(rows.values()), key) for key in keys]
    heading = ['images', *(labels.heading(key, metric) for key in keys)]
    terms = textwrap.fill(
      f'{metric["num_samples"]:,} held-out images of {metric["dataset"]} '
      f'(`{path.stem}`), changed, against {metric["reference"]}, in the '
      f'features of {metric["features"]}.',
      80,
    )
    texts.append(f'{terms}\n\n{_table(heading, rows, *columns)}')
  return '\n'.join(texts)


def digits_by_sampler():
  """Returns the Frechet distances of the digits run for every sampler."""
  return _by_sampler(_read_report('digits'))


def comparison():
  """Returns samplers by NFE, and pictures, of configs/digits_samplers.py.

  A cell has the row with the most evaluations that are above those of the
  column before and at most its own. If they are fewer than its own, they are in
  brackets. The text is '' if docs/results/samplers does not exist.
  """
  if not (RESULTS / 'samplers').exists():
    return ''
  report = _read_report('samplers')
  front = result.pareto_front(report['rows'], 'nfe')
  groups = labels.group(report['rows'])
  columns = []
  for low, nfe in zip((0, *_NFE), _NFE, strict=False):
    column = []
    for members in groups.values():
      within = [row for row in members if low < row['nfe'] <= nfe]
      row = max(within, key=lambda row: row['nfe'], default={})
      column.append(row)
    columns.append(_compared(column, nfe, front))
  heading = ['sampler', *(f'{nfe} NFE' for nfe in _NFE)]
  pictures = ''.join(
    f'\n![Frechet distance against {plots.COSTS[x]}]({name})\n'
    for x, name in _COMPARISON.items()
  )
  terms = textwrap.fill(
    f'Frechet distance (lower is better; {_spread(report)}), precision (higher '
    "is better) and the RMSE to the teacher's own solution (lower is better; a "
    'dash where the sampler draws noise), then the NFE in brackets if it is '
    'smaller. Bold: no other row has both a smaller distance and fewer '
    f'evaluations. The solution is {report["metric"]["solution"]}.',
    80,
  )
  return f'{terms}\n\n{_table(heading, groups, *columns)}{pictures}'


def _compared(rows, nfe, front):
  """Returns the cells of one column of the comparison."""
  figures = [_figures(rows, key, error) for key, error in _COMPARED.items()]
  cells = []
  for row, *texts in zip(rows, *figures, strict=True):
    cell = ' / '.join(text or '\N{EN DASH}' for text in texts)
    cell = f'**{cell}**' if row in front else cell
    fewer = f' ({row["nfe"]})' if row and row['nfe'] < nfe else ''
    cells.append(f'{cell}{fewer}' if row else '')
  return cells


def _by_sampler(report):
  """Returns a table of Frechet distances: steps by rows, samplers by columns.

  The NFE is in brackets if it differs from the number of steps.
  """
  groups = labels.group(report['rows'])
  counts = sorted({row['num_steps'] for row in report['rows']})
  columns = []
  for members in groups.values():
    by_steps = {row['num_steps']: row for row in members}
    rows = [by_steps.get(n, {}) for n in counts]
    texts = _figures(rows, 'frechet_distance')
    columns.append(
      [
        text if not text or row['nfe'] == n else f'{text} ({row["nfe"]})'
        for text, row, n in zip(texts, rows, counts, strict=True)
      ]
    )
  return _table(['steps', *groups], map(str, counts), *columns)


def paper_models():
  """Returns the table of the paper's models: what they cost, and its FID."""
  lines = []
  for name in PAPER:
    config, denoiser, costs = costs_of(name)
    fid = paper.curves({'label': 'FID', 'dataset': config.dataset.name})
    fid = fid.get(('student', 'ddim'), {})
    updates = sum(each.num_updates for each in costs[1:])
    lines.append(
      (
        f'`{name}`',
        f'{plan.num_parameters(denoiser) / 1e6:.1f}M',
        f'{len(costs) - 1}, {updates // 1000}k',
        f'{flop(costs[:1])}, {flop(costs[1:])}',
        ', '.join(f'{fid[n]:#.3g}' for n in (8, 4, 2, 1))
        if fid
        else 'no figures',
      )
    )
  heading = [
    'config',
    'parameters',
    'rounds, updates',
    'FLOP: teacher, students',
    "the paper's FID at 8, 4, 2, 1 steps",
  ]
  return _table(heading, *zip(*lines, strict=True))


def cost():
  """Returns the table of FLOPs of docs/scaling.md."""
  lines = []
  for name in SCALING:
    config, denoiser, costs = costs_of(name)
    lines.append(
      (
        f'`{name.removesuffix("_distill")}`',
        f'{plan.forward_flops(denoiser) / 1e9:.3g}',
        f'{config.train.batch_size:,}',
        flop(costs[:1], 3),
        str(len(costs) - 1),
        flop(costs[1:], 3),
      )
    )
  heading = [
    'config',
    'F, GFLOP',
    'B',
    'teacher, FLOP',
    'rounds',
    'students, FLOP',
  ]
  return _table(heading, *zip(*lines, strict=True))


@functools.cache
def costs_of(name):
  """Returns the config of a name, its Denoiser and its RoundCosts."""
  config = importlib.import_module(f'configs.{name}').get_config()
  _, denoiser = check(config)
  return config, denoiser, plan.round_costs(config, denoiser)


def flop(costs, digits=2):
  """Returns the sum of some RoundCosts as text, such as '1.6e19'."""
  return f'{sum(each.flops for each in costs):.{digits - 1}e}'.replace(
    'e+', 'e'
  )


def samplers():
  """Returns the table of samplers."""
  lines = []
  for name, factory in SAMPLERS.items():
    sampler = make_sampler(name)
    lines.append(
      (
        f'`{name}`',
        _options(factory),
        str(sampler.order),
        str(sampler.nfe_per_step),
        'yes' if sampler.draws_noise else 'no',
        _summary(factory),
      )
    )
  heading = [
    'name',
    'options',
    'order',
    'NFE per step',
    'draws noise',
    'what it is',
  ]
  return _table(heading, *zip(*lines, strict=True), align='llrrll')


def grids():
  """Returns the table of time grids."""
  lines = [
    (f'`{name}`', _options(factory), _summary(factory))
    for name, factory in GRIDS.items()
  ]
  heading = ['name', 'options', 'what it is']
  return _table(heading, *zip(*lines, strict=True), align='lll')


def _options(factory):
  """Returns the options of a factory and their defaults."""
  options = inspect.signature(factory).parameters.values()
  return ', '.join(f'`{o.name}={o.default}`' for o in options)


def _summary(function):
  """Returns the first sentence of a docstring without 'Returns' and period."""
  line = inspect.getdoc(function).split('\n\n')[0].replace('\n', ' ')
  return line.removeprefix('Returns ').removesuffix('.')


def _table(heading, *columns, align=None):
  """Returns a Markdown table, figures to the right."""
  align = align or 'l' + 'r' * (len(heading) - 1)
  rule = [{'l': '---', 'r': '---:'}[side] for side in align]
  lines = [heading, rule, *zip(*columns, strict=True)]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _figures(rows, key, error=None):
  """Returns a figure of rows as texts, '' where a row does not have it."""
  if error is None:
    return labels.numbers([row.get(key) for row in rows])
  # Each figure has the decimals that its error allows.
  return [
    labels.numbers([row.get(key)], 2, [row.get(error)])[0] for row in rows
  ]


def _read_report(name):
  """Returns the merged reports of the runs of a result."""
  paths = sorted((RESULTS / name).glob('seed_*.json'))
  return seeds.merge([json.loads(path.read_text()) for path in paths])


def _spread(report):
  """Returns what the uncertainties of a report's figures are, as a phrase."""
  count = report.get('num_runs', 1)
  if count == 1:
    return '± the standard error due to the choice of samples'
  return f'mean ± standard deviation of {count} training seeds'


def draw_samples(workdir, report):
  """Returns a PNG of the same noise, drawn by teacher and students.

  Args:
    workdir: the run folder.
    report: its report.
  """
  rows, data = _by_network(report), report['config']['dataset']
  shape = load_dataset(data['name'], data['args']).image_shape
  wanted = [
    _reference(report),
    rows['teacher', 4],
    rows['student', 4],
    rows['student', 1],
  ]
  figure = Figure((6.2, 4.9), dpi=150, layout='constrained')
  for axes, row in zip(figure.subplots(len(wanted)), wanted, strict=True):
    name = f'{row["round"]}_{row["sampler"]}_{row["num_steps"]:05}.png'
    images = read_grid(workdir / 'samples' / name, shape)
    page = to_image(grid(images, columns=_SHOWN, rows=2))
    axes.imshow(page, cmap='gray')
    title = f'{row["network"]}, {labels.steps(row["num_steps"])}'
    axes.set_title(title, loc='left', fontsize=9)
    axes.axis('off')
  return plots.to_png(figure)


def publish(name, workdirs, pictures):
  """Copies the reports of finished runs to docs/, and draws their curves.

  Args:
    name: name of the folder in docs/results.
    workdirs: the run folders, of different seeds.
    pictures: what the distance is drawn against, a key of `plots.COSTS` -> path
      of the picture in docs/.
  """
  folder = RESULTS / name
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for workdir in workdirs:
    report = json.loads((workdir / 'report' / 'report.json').read_text())
    # Where the run was made is of no use elsewhere.
    report['command'] = re.sub(
      r'--workdir=\S+', f'--workdir=runs/{name}', report['command']
    )
    path = folder / f'seed_{report["config"]["seed"]}.json'
    if path.exists():
      raise SystemExit(f'two runs have the seed {report["config"]["seed"]}')
    path.write_text(json.dumps(report, indent=2) + '\n')
  for x, picture in pictures.items():
    figure = plots.plot_quality(_read_report(name), x)
    (RESULTS.parent / picture).write_bytes(plots.to_png(figure))


def main():
  parser = argparse.ArgumentParser(prog='python -m benchmarks.readme')
  for name in (*RUNS, 'samplers'):
    parser.add_argument(
      f'--{name}',
      type=pathlib.Path,
      nargs='+',
      metavar='RUN',
      help=f'finished run folders for docs/results/{name}; pictures of samples '
      'are of the first',
    )
  options = vars(parser.parse_args())
  for name in RUNS:
    if workdirs := options[name]:
      publish(name, workdirs, {'num_steps': f'results/{name}/curve.png'})
      samples = draw_samples(workdirs[0], _read_report(name))
      (RESULTS / name / 'samples.png').write_bytes(samples)
  if options['samplers']:
    publish('samplers', options['samplers'], _COMPARISON)
  update()


if __name__ == '__main__':
  main()
