"""Generated texts from measured results, which are in docs/results/."""

import json
import pathlib
import statistics
import textwrap

from benchmarks import markdown
from diffusion_distillation.report import (
  labels,
  methods,
  paper,
  plots,
  result,
  seeds,
)

RESULTS = pathlib.Path(__file__).parents[1] / 'docs' / 'results'
# Runs whose results are shown: name of the folder in docs/results -> title.
RUNS = {
  'digits': 'Digits, 8x8',
  'fashion_mnist14': 'Fashion-MNIST, averaged to 14x14',
  'fashion_mnist': 'Fashion-MNIST, 28x28',
}
# Runs that compare samplers, and what their pictures draw the distance against.
COMPARISONS = 'digits_samplers', 'fashion_mnist14_samplers'
COMPARED_BY = 'nfe', 'seconds'
# The same for ways to few steps.
WAYS = ('digits_accelerators', 'fashion_mnist_accelerators')
WAYS_BY = 'nfe', 'training'
# Columns of the table that compares samplers.
_NFE = (4, 8, 16)
# Its figures, in the order of a cell, and their errors.
_COMPARED = {
  'frechet_distance': 'frechet_distance_error',
  'precision': None,
  'teacher_rmse': None,
}


def results():
  """Returns the table of README.md: what each run costs and reaches."""
  lines = []
  for name in _published():
    report = read_report(name)
    rows = by_network(report)
    reference = reference_of(report)
    wanted = [
      reference,
      *(rows.get(('student', n), {}) for n in (4, 1)),
      rows.get(('teacher', 4), {}),
    ]
    distances = [
      markdown.figures([row], 'frechet_distance', 'frechet_distance_error')[0]
      for row in wanted
    ]
    count = report.get('num_runs', 1)
    data = f'{RUNS[name]}; {count} {"seeds" if count > 1 else "seed"}'
    lines.append((data, _budget(report), *distances))
  # Section 5.2 of the paper has the budget of its students. Its figure of the
  # teacher has at most 512 steps.
  fid = paper.curves({'label': 'FID', 'dataset': 'cifar10'})
  student, teacher = fid['student', 'ddim'], fid['teacher', 'ddim']
  lines.append(
    (
      'CIFAR-10, the paper, FID',
      '96M images for the students, 8 TPU v4 chips',
      f'{teacher[512]:.2f} (512 steps)',
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
  return markdown.table(heading, *zip(*lines, strict=True), align='llrrrr')


def runs():
  """Returns docs/results.md: a sentence, a table and pictures of each run."""
  return '\n'.join(f'## {RUNS[name]}\n\n{_run(name)}' for name in _published())


def _published():
  return [name for name in RUNS if (RESULTS / name).exists()]


def by_network(report):
  """Returns (network, number of steps) -> row sampled by DDIM."""
  return {
    (row['network'], row['num_steps']): row
    for row in report['rows']
    if row['sampler'] == 'ddim'
  }


def reference_of(report):
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
  report = read_report(name)
  rows = by_network(report)
  counts = sorted({num_steps for _, num_steps in rows})
  students = [rows.get(('student', n), {}) for n in counts]
  teachers = [rows.get(('teacher', n), {}) for n in counts]
  start = reference_of(report)['num_steps']
  text = markdown.table(
    ['steps', 'student', 'teacher', f'student / teacher at {start} steps'],
    map(str, counts),
    markdown.figures(students, 'frechet_distance', 'frechet_distance_error'),
    markdown.figures(teachers, 'frechet_distance', 'frechet_distance_error'),
    markdown.figures(students, 'ratio', 'ratio_error'),
  )
  metric = report['metric']
  sentence = textwrap.fill(result.sentences(report)[0], 80)
  terms = textwrap.fill(
    f'Frechet distance (lower is better) of {metric["num_samples"]:,} samples '
    f'in the features of {metric["features"]}, {_spread(report)}. Real images '
    f'({metric["heldout"]}) are at {report["floor"]:.2f}; a smaller set '
    'of images has a larger distance. '
    f'{_budget(report)}; JAX {report["versions"]["jax"]}, '
    f'{report["date"][:10]}.',
    80,
  )
  command = textwrap.indent(report['command'], '    ')
  return (
    f'{sentence}\n\n{text}\n{terms}\n\n{command}\n\n'
    f'![Frechet distance against sampling steps](results/{name}/'
    'by_num_steps.png)\n\n'
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
  table = markdown.table(['', *columns], variants, *cells)
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
      f'(`{path.stem}`), damaged as the row says, compared with '
      f'{metric["reference"]}. Features: {metric["features"]}.',
      80,
    )
    texts.append(f'{terms}\n\n{markdown.table(heading, rows, *columns)}')
  return '\n'.join(texts)


def digits_by_sampler():
  """Returns the Frechet distances of the digits run for every sampler."""
  return _by_sampler(read_report('digits'))


def comparison(name):
  """Returns samplers by NFE, and pictures, of the runs of a config.

  A cell has the row with the most evaluations that are above those of the
  column before and at most its own. If they are fewer than its own, they are in
  brackets. The text is '' if there are no results of this name.
  """
  if not (RESULTS / name).exists():
    return ''
  report = read_report(name)
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
    f'\n![Frechet distance against {plots.COSTS[x]}]'
    f'(results/{name}/by_{x}.png)\n'
    for x in COMPARED_BY
  )
  terms = textwrap.fill(
    f'Frechet distance (lower is better; {_spread(report)}), precision (higher '
    "is better) and the RMSE to the teacher's own solution (lower is better; a "
    'dash where the sampler draws noise), then the NFE in brackets if it is '
    'smaller. Bold: no other row has both a smaller distance and fewer '
    f'evaluations. The solution is {report["metric"]["solution"]}.',
    80,
  )
  return f'{terms}\n\n{markdown.table(heading, groups, *columns)}{pictures}'


def ways(name):
  """Returns ways to few steps beside each other, of the runs of a config.

  The text is '' if there are no results of this name.
  """
  if not (RESULTS / name).exists():
    return ''
  report = read_report(name)
  lines = [methods.cells(method) for method in methods.compare(report)]
  terms = textwrap.fill(
    f'Frechet distance ({_spread(report)}) / precision / RMSE to the '
    f"teacher's solution, which is {report['metric']['solution']}; and the "
    'updates, images, FLOPs and time of training the students, without '
    f'the teacher. {_hardware(report)}.',
    80,
  )
  pictures = ''.join(
    f'\n![Frechet distance against {plots.COSTS[x]}]'
    f'(results/{name}/by_{x}.png)\n'
    for x in WAYS_BY
  )
  pictures += (
    '\nThe same noise, drawn by the teacher and in one step of each way:\n\n'
    f'![samples](results/{name}/samples.png)\n'
  )
  table = markdown.table(methods.HEADINGS, *zip(*lines, strict=True))
  return f'{terms}\n\n{table}{pictures}'


def _hardware(report):
  """Returns where and when a report was made."""
  return (
    f'{report["hardware"]["cores"]} cores of {report["hardware"]["cpu"]}, JAX '
    f'{report["versions"]["jax"]}, {report["date"][:10]}'
  )


def _compared(rows, nfe, front):
  """Returns the cells of one column of the comparison."""
  figures = [
    markdown.figures(rows, key, error) for key, error in _COMPARED.items()
  ]
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
    texts = markdown.figures(rows, 'frechet_distance')
    columns.append(
      [
        text if not text or row['nfe'] == n else f'{text} ({row["nfe"]})'
        for text, row, n in zip(texts, rows, counts, strict=True)
      ]
    )
  return markdown.table(['steps', *groups], map(str, counts), *columns)


def read_report(name):
  """Returns the merged reports of the runs of a result."""
  paths = sorted((RESULTS / name).glob('seed_*.json'))
  return seeds.merge([json.loads(path.read_text()) for path in paths])


def _spread(report):
  """Returns what the uncertainties of a report's figures are, as a phrase."""
  count = report.get('num_runs', 1)
  if count == 1:
    return '± the standard error due to the choice of samples'
  return f'mean ± standard deviation of {count} training seeds'
