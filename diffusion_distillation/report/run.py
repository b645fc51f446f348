"""Makes the report of a run folder: measures samples, draws and collects."""

import contextlib
import functools
import hashlib
import json
import pathlib
import shutil
import statistics
import sys
import tempfile

import numpy as np

from diffusion_distillation.checkpoints import load, read_card, read_progress
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.evaluation.metrics import rms_difference
from diffusion_distillation.generation import grids
from diffusion_distillation.generation.generator import Generator
from diffusion_distillation.generation.shards import Shards
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.report import labels
from diffusion_distillation.report.diagnosis import diagnosis
from diffusion_distillation.report.report import make_report, write_report
from diffusion_distillation.report.rows import (
  FIGURES,
  Measured,
  is_finished,
  plan_rows,
  solution_row,
)
from diffusion_distillation.runtime import devices, files, run_folder
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress
from diffusion_distillation.samplers import canonical
from diffusion_distillation.training.config import teacher_num_steps
from diffusion_distillation.training.plan import num_parameters, round_costs


def evaluate_run(config, dataset, workdir, evaluator):
  """Measures the rows of a run that are not measured yet, and draws grids.

  Args:
    config: checked config of the run.
    dataset: Dataset of the config.
    workdir: absolute path of the run folder, which gets evaluations.jsonl,
      samples/*.png and, if it is asked for, the teacher's solution.
    evaluator: an Evaluator.

  Returns:
    the protocol of the figures.
  """
  measured, rows = Measured(workdir), plan_rows(config, workdir)
  num_samples = config.eval.num_samples
  protocol = evaluator.protocol(num_samples)
  solution = solution_row(config, workdir)
  if solution is not None:
    protocol['solution'] = f'DDIM in {labels.steps(solution.num_steps)}'
    protocol['solution_checksum'] = solution.checksum
  missing = [row for row in rows if measured.find(row, protocol) is None]
  if not missing:
    return protocol
  generator, open_drawer = _open_drawers(config, dataset)
  solved = None
  if solution is not None and not all(row.draws_noise for row in missing):
    solved = Shards(
      workdir / 'solution',
      solution.identity,
      num_samples,
      generator.batch_size,
    )
    solved.draw(
      functools.partial(open_drawer, solution, num_samples),
      solution.num_steps,
      Progress("the teacher's solution", num_samples, 'images'),
    )
  for i, row in enumerate(_by_checkpoint(missing), 1):
    shards = Shards(
      workdir / 'evaluation' / row.name,
      row.identity,
      num_samples,
      generator.batch_size,
    )
    what = f'evaluate {i}/{len(missing)}: {row.name}'
    shards.draw(
      functools.partial(open_drawer, row, num_samples),
      row.num_steps,
      Progress(what, num_samples, 'images'),
    )
    figures = evaluator.measure(shards.images(), num_samples)
    figures['images_per_second'] = shards.images_per_second()
    if solved is not None and not row.draws_noise:
      figures['teacher_rmse'] = rms_difference(shards.images(), solved.images())
    figures |= evaluator.real_figures(protocol['num_samples'])
    figures['hardware'] = devices.hardware()
    images = _first(shards.images(), grids.GRID_IMAGES)
    grids.save_grid(images, row.grid(workdir), row.description)
    measured.add(row, protocol, figures)
    shards.remove()
    distance = figures['frechet_distance']
    print(f'{row.name}  {protocol["label"]} {distance:.3g}', file=sys.stderr)
  # A kill after writing a row's figures may have left its images.
  shutil.rmtree(workdir / 'evaluation', ignore_errors=True)
  return protocol


def draw_grids(config, dataset, workdir):
  """Draws the grids of a run's rows that do not exist yet.

  Args:
    config: checked config of the run.
    dataset: Dataset of the config.
    workdir: absolute path of the run folder, which gets samples/*.png.
  """
  rows = plan_rows(config, workdir)
  missing = [r for r in rows if not grids.shows(r.grid(workdir), r.description)]
  if not missing:
    return
  generator, open_drawer = _open_drawers(config, dataset)
  progress = Progress('samples', len(missing), 'grids')
  count = min(grids.GRID_IMAGES, config.eval.num_samples)
  for i, row in enumerate(_by_checkpoint(missing), 1):
    draw = open_drawer(row, count)
    batches = [
      draw(
        np.arange(first, min(first + generator.batch_size, count)),
        row.num_steps,
      )
      for first in range(0, count, generator.batch_size)
    ]
    grids.save_grid(np.concatenate(batches), row.grid(workdir), row.description)
    progress.show(i, row.name)


def evaluate_checkpoint(config, checkpoint, evaluator, *, sampler, num_steps):
  """Returns the figures of one checkpoint and their protocol, as JSON values.

  Args:
    config: config with the number of images, and where to keep them while they
      are drawn.
    checkpoint: a Checkpoint.
    evaluator: an Evaluator.
    sampler: canonical spelling of the sampler.
    num_steps: sampling steps.
  """
  num_samples = config.eval.num_samples
  row = {'sampler': sampler, 'num_steps': num_steps}
  key = json.dumps([checkpoint.card.to_json(), checkpoint.checksum, row])
  name = f'samples_{hashlib.sha256(key.encode()).hexdigest()[:16]}'
  cache = files.cache_folder(config.eval.get('cache_dir'), 'eval.cache_dir')
  generator = Generator(checkpoint.card, config.eval.batch_size)
  with tempfile.TemporaryDirectory() as temporary:
    folder = (cache or pathlib.Path(temporary)) / name
    shards = Shards(folder, row, num_samples, generator.batch_size)
    shards.draw(
      lambda: generator.drawer(checkpoint.weights, sampler, num_samples),
      num_steps,
      Progress('evaluate', num_samples, 'images'),
    )
    figures = evaluator.measure(shards.images(), num_samples)
    figures['images_per_second'] = shards.images_per_second()
    shards.remove()
  return {'metric': evaluator.protocol(num_samples), **row, **figures}


def report_run(config, dataset, workdir, protocol=None):
  """Writes the report of a run from what was measured, and returns it.

  Args:
    config, dataset, workdir, protocol: as in `collect`.

  Raises:
    UserError: a training is not finished, and has not failed.
  """
  report, shown = collect(config, dataset, workdir, protocol)
  write_report(report, workdir / 'report', **shown)
  return report


def collect(config, dataset, workdir, protocol=None):
  """Returns the report of a run, and what else its page shows.

  Args:
    config: checked config of the run.
    dataset: Dataset of the config.
    workdir: absolute path of the run folder.
    protocol: protocol of the figures to show; None takes that of the newest
      ones.

  Raises:
    UserError: a training is not finished, and has not failed.
  """
  run, failure = run_folder.read_run(workdir), run_folder.read_failure(workdir)
  rows = plan_rows(config, workdir, partial=failure is not None)
  measured = Measured(workdir)
  protocol = protocol or measured.newest_protocol()
  lines = [measured.find(row, protocol) or {} for row in rows]
  newest = next((line for line in reversed(lines) if line), {})
  denoiser = build_denoiser(
    config.model, dataset.image_shape, dataset.num_classes
  )
  names = [each['name'] for each in run['rounds']]
  entries = [
    entry
    for entry in files.read_jsonl(workdir / 'metrics.jsonl')
    if entry.get('stage') in names  # not that of a method that is left out
  ]
  report = make_report(
    {**run, 'config': config.to_dict()},
    [
      _report_row(row, line, config)
      for row, line in zip(rows, lines, strict=True)
    ],
    _finished_trainings(run, workdir, entries, config, denoiser),
    hardware=newest.get('hardware') or devices.hardware(),
    parameters=num_parameters(denoiser),
    failure=failure,
    metric=protocol if newest else None,
    floor=newest.get('floor'),
    train_classifier_score=newest.get('train_classifier_score'),
  )
  shown = {
    'row_images': _row_images(rows, workdir, dataset.image_shape),
    'real_images': _training_images(dataset, workdir, protocol),
    'entries': entries,
  }
  return report, shown


def _report_row(row, line, config):
  """Returns a Row and its figures, as `report.compare` takes them."""
  sampler = canonical(config.sampler)
  compared = [canonical(spelling) for spelling in config.eval.samplers]
  if compared and sampler not in compared:
    sampler = compared[0]
  reference = sampler, teacher_num_steps(config)
  return {
    'network': row.network,
    'round': row.round,
    'sampler': row.sampler,
    'num_steps': row.num_steps,
    'nfe': row.nfe,
    **{name: line[name] for name in FIGURES if name in line},
    'is_reference': (
      row.network == 'teacher' and (row.sampler, row.num_steps) == reference
    ),
  }


def _finished_trainings(run, workdir, entries, config, denoiser):
  """Returns what checkpoints and the log say about the finished trainings."""
  found, costs = [], {c.name: c for c in round_costs(config, denoiser)}
  for each in run['rounds']:
    path = workdir / each['name']
    if is_finished(path):
      progress = read_progress(path)
      logged = [e for e in entries if e.get('stage') == each['name']]
      shares = [entry['mfu'] for entry in logged if 'mfu' in entry]
      found.append(
        {
          'name': each['name'],
          'objective': each['objective'],
          'num_steps': each['num_steps'],
          'parent': each['parent'],
          'updates': read_card(path).updates,
          'images': costs[each['name']].num_images,
          'flops': costs[each['name']].flops,
          **{k: progress[k] for k in ('seconds', 'final_loss', 'compilations')},
          'mfu': statistics.median(shares) if shares else None,
          **diagnosis(logged),
        }
      )
  return found


def _row_images(rows, workdir, image_shape):
  """Returns the first images of rows, read from the pictures in samples/."""
  return {
    (row.round, row.sampler, row.num_steps): grids.read_grid(path, image_shape)
    for row in rows
    if grids.shows(path := row.grid(workdir), row.description)
  }


def _training_images(dataset, workdir, protocol):
  """Returns the first training images, and keeps a picture of them.

  The picture is drawn if it is missing or damaged, or if the samples have since
  been measured against other images. The result is None if neither the data nor
  the picture can be read.
  """
  path = workdir / 'samples' / 'training_images.png'
  reference = protocol and protocol.get('reference_checksum')
  if not grids.shows(path, reference):
    with contextlib.suppress(UserError):  # the data may have been moved
      count = min(grids.GRID_IMAGES, len(dataset.train))
      images = np.stack([dataset.train[i]['image'] for i in range(count)])
      grids.save_grid(images, path, reference)
  try:
    return grids.read_grid(path, dataset.image_shape)
  except UserError:
    return None


def make_generator(config, dataset):
  """Returns the Generator of all rows of a run.

  A teacher from elsewhere is sampled as this run's config says.
  """
  card = make_card(
    config,
    dataset,
    num_steps=teacher_num_steps(config),
    sampler=config.sampler,
    objective=config.objective,
  )
  return Generator(card, config.eval.batch_size)


def _by_checkpoint(rows):
  """Returns rows in an order that keeps those of a checkpoint together."""
  paths = [row.path for row in rows]
  return sorted(rows, key=lambda row: paths.index(row.path))


def _open_drawers(config, dataset):
  """Returns a Generator, and (Row, number of images) -> function that draws."""
  generator = make_generator(config, dataset)

  @functools.lru_cache(1)  # consecutive rows often have the same checkpoint
  def weights_of(path, checksum):
    checkpoint = load(path, config)
    if checksum not in (None, checkpoint.checksum):
      raise UserError(
        f'{checkpoint.path} is not the teacher that this run was distilled '
        'from: the weights differ; set distillation.teacher_checkpoint_path '
        'to the path of that teacher'
      )
    return checkpoint.weights

  def open_drawer(row, num_images):
    outside = row.checksum if row.updates is None else None
    weights = weights_of(row.path, outside)
    return generator.drawer(weights, row.sampler, num_images)

  return generator, open_drawer


def _first(batches, count):
  """Returns the first images of batches."""
  images = []
  for batch in batches:
    images.extend(batch)
    if len(images) >= count:
      break
  return np.stack(images[:count])
