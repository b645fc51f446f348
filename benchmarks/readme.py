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
import json
import pathlib
import re
import shutil

from matplotlib.figure import Figure

from benchmarks import catalogue, results
from benchmarks.results import (
  COMPARED_BY,
  COMPARISONS,
  RESULTS,
  RUNS,
  WAYS,
  WAYS_BY,
)
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.generation.grids import grid, read_grid, to_image
from diffusion_distillation.report import labels, plots
from diffusion_distillation.runtime import files

ROOT = pathlib.Path(__file__).parents[1]
# Images in a row of the picture of samples.
_SHOWN = 12


def blocks():
  """Returns the generated texts, (file, name) -> function that returns one."""
  return {
    ('README.md', 'results'): results.results,
    ('docs/results.md', 'runs'): results.runs,
    ('README.md', 'paper'): catalogue.paper_models,
    ('docs/samplers.md', 'samplers'): catalogue.samplers,
    ('docs/samplers.md', 'grids'): catalogue.grids,
    ('docs/samplers.md', 'digits'): results.digits_by_sampler,
    ('docs/samplers.md', 'comparison'): functools.partial(
      results.comparison, 'digits_samplers'
    ),
    ('docs/studies.md', 'integrators'): functools.partial(
      results.comparison, 'fashion_mnist14_samplers'
    ),
    ('docs/methods.md', 'ways'): functools.partial(
      results.ways, 'digits_accelerators'
    ),
    ('docs/evaluation.md', 'metrics'): results.metric_check,
    ('docs/studies.md', 'studies'): results.studies,
    ('docs/scaling.md', 'cost'): catalogue.cost,
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


def of_teacher_and_students(report):
  """Returns the rows of a run whose samples are shown."""
  rows = results.by_network(report)
  shown = [rows['teacher', 4], rows['student', 4], rows['student', 1]]
  return [results.reference_of(report), *shown]


def of_ways(report):
  """Returns the teacher's row, and that of one step of each way."""
  rows = [r for r in report['rows'] if r['num_steps'] == r['nfe'] == 1]
  ways = [row for row in rows if row['network'] != 'teacher']
  return [results.reference_of(report), *ways]


def draw_samples(workdir, report, wanted, lines=2):
  """Returns a PNG of the same noise, drawn by several networks.

  Args:
    workdir: the run folder.
    report: its report.
    wanted: rows of the report.
    lines: lines of images of each.
  """
  data = report['config']['dataset']
  shape = load_dataset(data['name'], data['args']).image_shape
  height = len(wanted) * (0.17 + 0.53 * lines)
  figure = Figure((6.2, height), dpi=150, layout='constrained')
  for axes, row in zip(figure.subplots(len(wanted)), wanted, strict=True):
    name = f'{row["round"]}_{row["sampler"]}_{row["num_steps"]:05}.png'
    images = read_grid(workdir / 'samples' / name, shape)
    page = to_image(grid(images, columns=_SHOWN, rows=lines))
    axes.imshow(page, cmap='gray')
    title = f'{row["network"]}, {labels.steps(row["num_steps"])}'
    axes.set_title(title, loc='left', fontsize=9)
    axes.axis('off')
  return plots.to_png(figure)


def draw_training(workdir, report, method, key, label):
  """Returns a PNG of a metric over the rounds of a method.

  Args:
    workdir: the run folder.
    report: its report.
    method: name of the method.
    key: key of the metric in metrics.jsonl.
    label: name of the metric.
  """
  entries = files.read_jsonl(workdir / 'metrics.jsonl')
  rounds = {
    each['name']: each['num_steps']
    for each in report['rounds']
    if each['name'].rpartition('_')[0] == method
  }
  figure = plots.plot_training(entries, rounds, key, label)
  return plots.to_png(figure)


def publish(name, workdirs, costs):
  """Copies the reports of finished runs to docs/, and draws their curves.

  Args:
    name: name of the folder in docs/results.
    workdirs: the run folders, of different seeds.
    costs: what the distance is drawn against, keys of `plots.COSTS`.
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
  for x in costs:
    figure = plots.plot_quality(results.read_report(name), x)
    (folder / f'by_{x}.png').write_bytes(plots.to_png(figure))


def main():
  parser = argparse.ArgumentParser(prog='python -m benchmarks.readme')
  for name in (*RUNS, *COMPARISONS, *WAYS):
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
      publish(name, workdirs, ['num_steps'])
      report = results.read_report(name)
      shown = of_teacher_and_students(report)
      samples = draw_samples(workdirs[0], report, shown)
      (RESULTS / name / 'samples.png').write_bytes(samples)
  for name in COMPARISONS:
    if workdirs := options[name]:
      publish(name, workdirs, COMPARED_BY)
  for name in WAYS:
    if workdirs := options[name]:
      publish(name, workdirs, WAYS_BY)
      report, folder = results.read_report(name), RESULTS / name
      samples = draw_samples(workdirs[0], report, of_ways(report), lines=1)
      (folder / 'samples.png').write_bytes(samples)
      for key, label in (('loss', 'loss'), ('step_error', 'step error')):
        curve = draw_training(workdirs[0], report, 'progressive', key, label)
        (folder / f'{key}.png').write_bytes(curve)
  update()


if __name__ == '__main__':
  main()
