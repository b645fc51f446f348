"""Measures every round of a run, and the undistilled samplers beside it."""

import functools
import hashlib
import json
import pathlib
import shutil
import sys
import tempfile

import jax
import numpy as np

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints.card import card_of
from diffusion_distillation.generation.generator import Generator
from diffusion_distillation.generation.shards import Shards
from diffusion_distillation.report import plots
from diffusion_distillation.report.rows import Measured, Row, plan_rows
from diffusion_distillation.runtime.log import Progress


def evaluate_run(config, dataset, workdir, evaluator):
  """Measures the rows of a run that are not measured so yet, and draws grids.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder, absolute; gets evaluations.jsonl and samples/*.png.
    evaluator: an Evaluator.
  """
  measured, rows = Measured(workdir), plan_rows(config, workdir)
  protocol = evaluator.protocol(config.eval.num_samples)
  missing = [row for row in rows if measured.find(row, protocol) is None]
  if not missing:
    return
  generator = _generator(config, dataset)
  for i, row in enumerate(missing, 1):
    shards = Shards(
      workdir / 'evaluation' / row.name,
      row,
      config.eval.num_samples,
      generator.batch_size,
    )
    what = f'evaluate {i}/{len(missing)}: {row.name}'
    load = functools.partial(checkpoints.load, row.path, config=config)
    progress = Progress(what, config.eval.num_samples, 'images')
    shards.draw(generator, load, progress)
    figures = evaluator.measure(shards.images(), config.eval.num_samples)
    figures |= {'seconds': shards.seconds(), **evaluator.real_figures()}
    images = _first(shards.images())
    plots.save_grid(images, row.grid(workdir), row.description)
    measured.add(row, protocol, figures)
    shards.remove()
    distance = figures['frechet_distance']
    print(f'{row.name}  {protocol["label"]} {distance:.3g}', file=sys.stderr)
  # What a kill between a row's figures and the removal of its files left.
  shutil.rmtree(workdir / 'evaluation', ignore_errors=True)


def evaluate_checkpoint(config, checkpoint, evaluator, *, method, num_steps):
  """Returns the figures of one checkpoint, and their protocol, as JSON values.

  Args:
    config: says how many images, and where they are kept while they are drawn.
    checkpoint: a Checkpoint.
    evaluator: an Evaluator.
    method: of samplers.METHODS.
    num_steps: sampling steps.
  """
  card, num_samples = checkpoint.card, config.eval.num_samples
  training = card['training'] or {}
  row = Row(
    sampler=method,
    method=method,
    num_steps=num_steps,
    updates=training.get('updates'),
    path=checkpoint.path,
  )
  cache = config.eval.get('cache_dir') or tempfile.gettempdir()
  name = f'samples_{_digest(checkpoint)}_{row.name}'
  folder = pathlib.Path(cache).expanduser() / name
  generator = Generator(card, config.eval.batch_size)
  shards = Shards(folder, row, num_samples, generator.batch_size)
  progress = Progress('evaluate', num_samples, 'images')
  shards.draw(generator, lambda: checkpoint, progress)
  figures = evaluator.measure(shards.images(), num_samples)
  shards.remove()
  protocol = evaluator.protocol(num_samples)
  return {
    'metric': protocol,
    'sampler': method,
    'num_steps': num_steps,
    **figures,
  }


def _digest(checkpoint):
  """Returns what tells a checkpoint's images from any other's, as a name."""
  digest = hashlib.sha256(json.dumps(checkpoint.card, sort_keys=True).encode())
  for leaf in jax.tree.leaves(checkpoint.weights):
    digest.update(np.ascontiguousarray(leaf))
  return digest.hexdigest()[:16]


def draw_grids(config, dataset, workdir):
  """Draws the grids of a run's rows that are not there yet.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder, absolute; gets samples/*.png.
  """
  rows = plan_rows(config, workdir)
  missing = [r for r in rows if not plots.shows(r.grid(workdir), r.description)]
  if not missing:
    return
  generator = _generator(config, dataset)
  progress = Progress('samples', len(missing), 'grids')
  for i, row in enumerate(missing, 1):
    images = generator.images(
      checkpoints.load(row.path, config=config).weights,
      np.arange(min(plots.GRID_IMAGES, config.eval.num_samples)),
      row.num_steps,
      row.method,
    )
    plots.save_grid(images, row.grid(workdir), row.description)
    progress.show(i, row.name)


def _generator(config, dataset):
  # One card for all rows: a teacher from elsewhere is sampled as this run is.
  return Generator(card_of(config, dataset), config.eval.batch_size)


def _first(batches):
  """Returns the images of the first batches, enough for a grid."""
  images = []
  for batch in batches:
    images.extend(batch)
    if len(images) >= plots.GRID_IMAGES:
      break
  return np.stack(images)
