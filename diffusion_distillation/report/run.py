"""Measures the rows of a run, and single checkpoints, and draws their images."""

import hashlib
import json
import shutil
import sys
import tempfile

import jax
import numpy as np

from diffusion_distillation.checkpoints import load
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.generation import grids
from diffusion_distillation.generation.generator import Generator
from diffusion_distillation.generation.shards import Shards
from diffusion_distillation.report.rows import Measured, plan_rows
from diffusion_distillation.runtime.devices import cache_folder
from diffusion_distillation.runtime.log import Progress
from diffusion_distillation.training.config import teacher_num_steps


def evaluate_run(config, dataset, workdir, evaluator):
  """Measures the rows of a run that are not measured yet, and draws grids.

  Args:
    config: of the run, checked.
    dataset: its Dataset.
    workdir: the run folder, absolute; gets evaluations.jsonl and samples/*.png.
    evaluator: an Evaluator.
  """
  measured, rows = Measured(workdir), plan_rows(config, workdir)
  num_samples = config.eval.num_samples
  protocol = evaluator.protocol(num_samples)
  missing = [row for row in rows if measured.find(row, protocol) is None]
  if not missing:
    return
  generator = make_generator(config, dataset)
  for i, row in enumerate(missing, 1):
    shards = Shards(
      workdir / 'evaluation' / row.name,
      row.identity,
      num_samples,
      generator.batch_size,
    )
    what = f'evaluate {i}/{len(missing)}: {row.name}'
    shards.draw(
      _open_drawer(generator, config, row, num_samples),
      row.num_steps,
      Progress(what, num_samples, 'images'),
    )
    figures = evaluator.measure(shards.images(), num_samples)
    figures['images_per_second'] = shards.images_per_second()
    figures |= evaluator.real_figures()
    images = _first(shards.images(), grids.GRID_IMAGES)
    grids.save_grid(images, row.grid(workdir), row.description)
    measured.add(row, protocol, figures)
    shards.remove()
    distance = figures['frechet_distance']
    print(f'{row.name}  {protocol["label"]} {distance:.3g}', file=sys.stderr)
  # What a kill leaves between writing a row's figures and removing its images.
  shutil.rmtree(workdir / 'evaluation', ignore_errors=True)


def draw_grids(config, dataset, workdir):
  """Draws the grids of a run's rows that do not exist yet.

  Args:
    config: of the run, checked.
    dataset: its Dataset.
    workdir: the run folder, absolute; gets samples/*.png.
  """
  rows = plan_rows(config, workdir)
  missing = [r for r in rows if not grids.shows(r.grid(workdir), r.description)]
  if not missing:
    return
  generator = make_generator(config, dataset)
  progress = Progress('samples', len(missing), 'grids')
  count = min(grids.GRID_IMAGES, config.eval.num_samples)
  for i, row in enumerate(missing, 1):
    draw = _open_drawer(generator, config, row, count)()
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
    config: says how many images, and where they are kept while they are drawn.
    checkpoint: a Checkpoint.
    evaluator: an Evaluator.
    sampler: its canonical spelling.
    num_steps: sampling steps.
  """
  num_samples = config.eval.num_samples
  row = {'sampler': sampler, 'num_steps': num_steps}
  key = json.dumps([checkpoint.card.to_json(), checkpoint.checksum, row])
  name = f'samples_{hashlib.sha256(key.encode()).hexdigest()[:16]}'
  cache = cache_folder(config.eval.get('cache_dir'), 'eval.cache_dir')
  generator = Generator(checkpoint.card, config.eval.batch_size)
  with tempfile.TemporaryDirectory() as temporary:
    folder = (cache or _path(temporary)) / name
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


def _open_drawer(generator, config, row, num_images):
  """Returns () -> a function that draws images of a Row."""
  return lambda: generator.drawer(
    load(row.path, config).weights, row.sampler, num_images
  )


def _first(batches, count):
  """Returns the first images of batches."""
  images = []
  for batch in batches:
    images.extend(batch)
    if len(images) >= count:
      break
  return np.stack(images[:count])
