"""The report of a run: report.json, its curve, and one page to look at."""

import json

import numpy as np

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints.card import teacher_steps
from diffusion_distillation.evaluation.statistics import image_of
from diffusion_distillation.objectives.rounds import rounds
from diffusion_distillation.report import page, paper, plots
from diffusion_distillation.report.rows import FIGURES, Measured, plan_rows
from diffusion_distillation.runtime import failure as failures
from diffusion_distillation.runtime import files


def make_report(config, workdir, protocol=None):
  """Returns the report of a run as JSON values.

  Args:
    config: of the run.
    workdir: its folder, absolute, all its trainings finished.
    protocol: of the figures to show; None: that of the newest.

  Raises:
    UserError: a training is not finished, and has not failed.
  """
  measured, failure = Measured(workdir), failures.read(workdir)
  protocol = protocol or measured.newest_protocol()
  planned = plan_rows(config, workdir, partial=failure is not None)
  lines = [measured.find(row, protocol) or {} for row in planned]
  rows = [
    {'sampler': row.sampler, 'num_steps': row.num_steps}
    | {name: line[name] for name in FIGURES if name in line}
    for row, line in zip(planned, lines, strict=True)
  ]
  _compare(rows, _teacher_s(config, rows), paper.figures(protocol))
  real = next((line for line in lines if line), {})
  trainings = _trainings(config, workdir, partial=failure is not None)
  teacher, report_rounds, compilations = trainings
  return {
    'failure': failure,
    'metric': protocol if real else None,
    'rows': rows,
    'floor': real.get('floor'),
    'train_classifier_score': real.get('train_classifier_score'),
    'teacher': teacher,
    'rounds': report_rounds,
    'compilations': compilations,
  }


def _teacher_s(config, rows):
  """Returns the row of the teacher as it is distilled, or None."""
  wanted = config.sampler, teacher_steps(config)
  for row in rows:
    if (row['sampler'], row['num_steps']) == wanted:
      return row
  return None


def _compare(rows, teacher, printed):
  """Adds to each row its ratio to the teacher's, and the paper's figure."""
  for row in rows:
    distance = teacher and teacher.get('frechet_distance')
    if distance and 'frechet_distance' in row:
      row['ratio'] = row['frechet_distance'] / distance
    fid = printed.get(row['sampler'], {}).get(row['num_steps'])
    if fid is not None:
      row['paper'] = fid


def _trainings(config, workdir, partial):
  """Returns what the teacher, the rounds, and their compilations were."""
  teacher, compilations = None, {'train_step': 0}
  if (workdir / 'teacher').exists():
    teacher = _training(workdir / 'teacher', partial)
  if teacher is not None:
    compilations['train_step'] = teacher['compilations']
  if config.distillation is None:
    return teacher, [], compilations
  trainings = [
    {'num_steps': this.num_steps} | training
    for this in rounds(config.distillation)
    if (training := _training(workdir / this.name, partial))
  ]
  # The most that one process needed: a run that is resumed compiles anew.
  counts = [t['compilations'] for t in trainings]
  compilations['distill_step'] = max(counts, default=0)
  keys = ('num_steps', 'updates', 'seconds', 'final_loss')
  return teacher, [{k: t[k] for k in keys} for t in trainings], compilations


def _training(folder, partial):
  """Returns what the newest card in a folder says of its training.

  With `partial`, None where the run failed before there was one.
  """
  if partial and not any(folder.glob('checkpoints/*')):
    return None
  return checkpoints.read_card(folder)['training']


def write_report(config, dataset, workdir, protocol=None):
  """Writes report.json, its curves and index.html; returns the report.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder, absolute.
    protocol: as in `make_report`.
  """
  report = make_report(config, workdir, protocol)
  folder = workdir / 'report'
  folder.mkdir(exist_ok=True)
  files.write_text(folder / 'report.json', json.dumps(report, indent=2) + '\n')
  curves = _plot_curves(report, folder)
  real = workdir / 'samples' / 'training_images.png'
  if not real.exists():
    count = min(plots.GRID_IMAGES, len(dataset.train))
    images = [image_of(dataset.train, i) for i in range(count)]
    plots.save_grid(np.stack(images), real)
  rows = plan_rows(config, workdir, partial=report['failure'] is not None)
  grids = [real, *(row.grid(workdir) for row in rows)]
  text = page.make_page(config, report, curves, grids)
  files.write_text(folder / 'index.html', text)
  return report


def _plot_curves(report, folder):
  """Writes the curves that a report has figures for; returns their paths."""
  steps = folder / 'fid_vs_steps.png'
  evaluations = folder / 'fid_vs_evaluations.png'
  for path in (steps, evaluations):
    path.unlink(missing_ok=True)
  if report['metric'] is None:
    return []
  plots.plot_fid_vs_steps(report, steps)
  if len(plots.flows(report['rows'])) < 2:
    return [steps]
  plots.plot_fid_vs_evaluations(report, evaluations)
  return [steps, evaluations]


def summary(report):
  """Returns the figures of a report as lines of text; '' where it has none."""
  if report['metric'] is None:
    return ''
  label = report['metric']['label']
  lines = [f'{"sampler":<24}{"steps":>6}{label:>18}{"precision":>11}\n']
  for row in report['rows']:
    distance, precision = (
      f'{row[key]:.3f}' if key in row else ''
      for key in ('frechet_distance', 'precision')
    )
    lines.append(
      f'{row["sampler"]:<24}{row["num_steps"]:>6}{distance:>18}{precision:>11}\n'
    )
  return ''.join(lines)
