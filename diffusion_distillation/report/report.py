"""The report of a run: its figures as JSON values, as text and as a page.

A report is one mapping, which report.json holds and the page is made from:

  title              name of the data set
  config, versions, command, commit, date
                     facts of the run; date and commit are those of its start
  hardware           {'cpu': model, 'cores': number, 'devices': names}
  parameters         number of parameters of the network
  failure            why the training failed, or None
  metric             how samples were measured; None if they were not
  floor              Frechet distance of the held-out images, or None
  train_classifier_score
                     classifier score of the training images, or None
  rows               one per network, sampler and number of steps; see `compare`
  rounds             one per training, the teacher's first
  compilations       compiled step -> how often one process compiled it
"""

import json
import math
import pathlib

from diffusion_distillation.report import (
  labels,
  methods,
  page,
  paper,
  plots,
  result,
)
from diffusion_distillation.runtime import files

# What the Frechet distance is drawn against -> file of the curves.
CURVES = {
  'num_steps': 'fid_vs_steps',
  'nfe': 'fid_vs_nfe',
  'seconds': 'fid_vs_seconds',
  'training': 'fid_vs_training',
}


def make_report(run, rows, trainings, **facts):
  """Returns the report of a run as JSON values.

  Args:
    run: what the run folder's config.json holds: `config`, `versions`,
      `command`, `commit`, `started`.
    rows: as `compare` takes them.
    trainings: one mapping per finished training, the teacher's first: `name`,
      `parent`, `objective`, `num_steps`, `updates`, `images`, `flops`,
      `seconds`, `final_loss`, `mfu`, `compilations`.
    **facts: those of `hardware`, `parameters`, `failure`, `metric`, `floor` and
      `train_classifier_score` that are known; the others are None.
  """
  metric = facts.get('metric')
  counts = {'train_step': 0, 'distill_step': 0}
  for training in trainings:
    step = 'train_step' if training['name'] == 'teacher' else 'distill_step'
    # The largest count of one process: resuming compiles once more.
    counts[step] = max(counts[step], training['compilations'])
  report = {
    'title': run['config']['dataset']['name'],
    'config': run['config'],
    'versions': run.get('versions', {}),
    'command': run.get('command'),
    'commit': run.get('commit'),
    'date': run.get('started'),
    'hardware': facts.get('hardware'),
    'parameters': facts.get('parameters'),
    'failure': facts.get('failure'),
    'metric': metric,
    'floor': facts.get('floor'),
    'train_classifier_score': facts.get('train_classifier_score'),
    'rows': compare(rows, metric),
    'rounds': [
      {key: value for key, value in training.items() if key != 'compilations'}
      for training in trainings
    ],
    'compilations': counts,
  }
  if len(methods.names(report)) > 1:
    for row in report['rows']:
      flops = methods.training_flops(report['rounds'], row['round'])
      row['training_flops'] = flops
  return report


def compare(rows, metric):
  """Returns rows with their ratio to the reference, and the paper's figure.

  The ratio's standard error adds the relative errors of both distances in
  quadrature, as if they were independent. Rows share their noise and the
  training images, so the true error is usually smaller.

  Args:
    rows: mappings with `network` ('teacher' or 'student'), `round`, `sampler`,
      `num_steps`, `nfe`, `is_reference` (true for the teacher as it is
      distilled) and, once measured, `frechet_distance`, its standard error
      `frechet_distance_error` and other figures.
    metric: the protocol of the figures, or None.
  """
  reference = next((row for row in rows if row['is_reference']), {})
  return [
    row | _ratio(row, reference) | paper.figure(metric, row) for row in rows
  ]


def _ratio(row, reference):
  """Returns `ratio` and `ratio_error`, as far as they are known."""
  if 'frechet_distance' not in row or not reference.get('frechet_distance'):
    return {}
  ratio = row['frechet_distance'] / reference['frechet_distance']
  errors = [each.get('frechet_distance_error') for each in (row, reference)]
  if row is reference or None in errors:
    return {'ratio': ratio}
  error = math.hypot(errors[0], ratio * errors[1])
  return {
    'ratio': ratio,
    'ratio_error': error / reference['frechet_distance'],
  }


def write_report(report, folder, *, row_images, real_images, entries):
  """Writes report.json, the curves and index.html to a folder.

  Args:
    report: result of `make_report`.
    folder: path of the folder, which is created if it does not exist.
    row_images, real_images, entries: as `page.make_page` takes them.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(exist_ok=True)
  files.write_text(folder / 'report.json', json.dumps(report, indent=2) + '\n')
  for x, name in CURVES.items():
    path = folder / f'{name}.png'
    figure = plots.plot_quality(report, x)
    if figure is None:
      path.unlink(missing_ok=True)
    else:
      files.write_bytes(path, plots.to_png(figure))
  text = page.make_page(
    report, row_images=row_images, real_images=real_images, entries=entries
  )
  files.write_text(folder / 'index.html', text)


def summary(report):
  """Returns the figures and the result of a report as lines of text.

  The text is '' if nothing is measured.

  Args:
    report: result of `make_report`.
  """
  if report['metric'] is None:
    return ''
  groups = labels.group(report['rows'])
  rows = [row for members in groups.values() for row in members]
  columns = [
    ['sampler', *(k for k, members in groups.items() for _ in members)]
  ]
  for key in ('num_steps', 'nfe', 'frechet_distance', 'ratio', 'precision'):
    heading = labels.heading(key, report['metric'])
    columns.append([heading, *labels.column(rows, key)])
  widths = [max(map(len, column)) for column in columns]
  lines = []
  for name, *figures in zip(*columns, strict=True):
    cells = [
      text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)
    ]
    lines.append('  '.join([name.ljust(widths[0]), *cells]).rstrip() + '\n')
  return ''.join([*lines, *(f'{s}\n' for s in result.sentences(report))])


def show(report, workdir):
  """Prints the summary of a report and where its page is.

  Args:
    report: result of `make_report`.
    workdir: path of the folder that has the folder `report`.
  """
  print(f'{summary(report)}report: {workdir / "report" / "index.html"}')
