"""What main.py can be asked to do: one function for each mode."""

import functools
import inspect
import json
import sys

import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.errors import UserError
from diffusion_distillation.evaluation import plots
from diffusion_distillation.evaluation.evaluate import (
  draw_grids,
  evaluate_checkpoint,
  evaluate_run,
)
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.evaluation.feature_sets import batches_of
from diffusion_distillation.evaluation.features import NO_WEIGHTS
from diffusion_distillation.evaluation.generate import Generator
from diffusion_distillation.evaluation.image_files import ImageFiles
from diffusion_distillation.evaluation.report import summary, write_report
from diffusion_distillation.evaluation.sample_files import (
  parse_seeds,
  write_samples,
)
from diffusion_distillation.training import checkpoints, weight_files
from diffusion_distillation.training import plan as plans
from diffusion_distillation.training.cards import card_of
from diffusion_distillation.training.log import RunLog
from diffusion_distillation.training.progressive import (
  Trainer,
  find_teacher,
)
from diffusion_distillation.training.run_folder import (
  open_run_folder,
  teacher_of,
)
from diffusion_distillation.training.settings import check


def run(mode, options):
  """Does what a mode does.

  Args:
    mode: name of a function below.
    options: mapping with the values of its arguments; the rest is not used.
  """
  function = globals()[mode]
  wanted = inspect.signature(function).parameters
  function(**{name: options[name] for name in wanted})


def train(config, workdir):
  """Trains, distills, evaluates and reports: all that the config says."""
  dataset, denoiser = check(_given(config, '--config=configs/NAME.py'))
  evaluator = open_evaluator(config, dataset, needed=False)
  if evaluator is None:
    print(f'notice: FID will not be measured. {NO_WEIGHTS}', file=sys.stderr)
  workdir = _given(workdir, '--workdir=DIR')
  teacher = teacher_of(workdir)
  if teacher is None and config.distillation is not None:
    teacher = config.distillation.teacher_checkpoint_path
  teacher = find_teacher(teacher, config, denoiser)
  workdir = open_run_folder(workdir, config, teacher=teacher, create=True)

  @functools.cache
  def generator():
    # Of the students' network and sampling, which are the teacher's, too.
    return Generator(card_of(config, dataset), config.eval.batch_size)

  def evaluate(weights, card, name):
    num_images = config.eval.num_samples
    if evaluator is None:
      num_images = min(num_images, plots.GRID_IMAGES)
    images = generator().images(
      weights, np.arange(num_images), card['num_steps'], card['sampler']
    )
    plots.save_grid(images, workdir / 'samples' / f'{name}.png')
    return {} if evaluator is None else evaluator.measure(batches_of(images))

  log = RunLog(workdir)
  try:
    Trainer(config, dataset, workdir, teacher, log, evaluate).run()
  finally:
    log.close()
  _finish(config, dataset, workdir, evaluator)


def evaluate(config, workdir, checkpoint, images, num_steps):
  """Measures what is not measured yet of a finished run.

  Or one checkpoint, or any images, and prints their figures as JSON.
  """
  if checkpoint or images:
    if checkpoint:
      figures = _evaluate_checkpoint(checkpoint, config, num_steps)
    else:
      figures = _evaluate_images(images, config)
    print(json.dumps(figures, indent=2))
    return
  dataset, workdir = _finished(config, workdir)
  _finish(config, dataset, workdir, open_evaluator(config, dataset))


def report(config, workdir):
  """Writes the report of a finished run, from what was measured."""
  dataset, workdir = _finished(config, workdir)
  _show_report(write_report(config, dataset, workdir), workdir)


def plan(config):
  """Prints what a config will do and cost; runs nothing."""
  _, denoiser = check(_given(config, '--config=configs/NAME.py'))
  print(plans.plan(config, denoiser))


def sample(checkpoint, seeds, out, num_steps, config):
  """Draws samples of a checkpoint into `out`."""
  path = _given(checkpoint, '--checkpoint=PATH')
  seeds, out = parse_seeds(seeds), _given(out, '--out=FILE.npz or --out=FOLDER')
  checkpoint = _load(path, config)
  _warn_of_steps(checkpoint, num_steps)
  write_samples(checkpoint, seeds=seeds, out=out, num_steps=num_steps)
  print(f'wrote {len(seeds)} samples to {out}')


def export(checkpoint, out, config):
  """Writes the weights of a checkpoint to one file."""
  path = _given(checkpoint, '--checkpoint=PATH')
  out = _given(out, "--out=FILE.safetensors, or FILE in the original's format")
  checkpoint = _load(path, config)
  weight_files.write(checkpoint, out)
  print(f'wrote the weights of {checkpoint.path} to {out}')


def _evaluate_checkpoint(path, config, num_steps):
  """Returns the figures of one checkpoint, by its own sampler.

  How to measure it, the config says, if one is given, or else the card.
  """
  checkpoint = _load(path, config)
  card = checkpoint.card
  _warn_of_steps(checkpoint, num_steps)
  if config is not None:
    dataset, _ = check(config)
  elif 'eval' in (card['config'] or {}):
    config = ConfigDict(card['config'])
    dataset = load_dataset(config.dataset.name, config.dataset.args)
  else:
    raise UserError(
      f'{path} does not say how it is measured; give --config=configs/NAME.py'
    )
  if list(dataset.image_shape) != list(card['image_shape']):
    raise UserError(
      f'{path} draws images of {card["image_shape"]}, the config has a data '
      f'set of {list(dataset.image_shape)}'
    )
  evaluator = open_evaluator(config, dataset)
  num_steps = card['num_steps'] if num_steps is None else num_steps
  return evaluate_checkpoint(config, checkpoint, num_steps, evaluator)


def _evaluate_images(path, config):
  """Returns the figures of any images."""
  dataset, _ = check(_given(config, '--config=configs/NAME.py'))
  evaluator = open_evaluator(config, dataset)
  images = ImageFiles(path, dataset.image_shape)
  protocol = evaluator.protocol(images.num_images, f'all of {path}')
  return {'metric': protocol, **evaluator.measure(images)}


def _load(path, config):
  """Returns the Checkpoint at a path; `config` describes the original's."""
  if config is None or not weight_files.needs_config(path):
    return checkpoints.load(path)
  _, denoiser = check(config)
  return checkpoints.load(path, denoiser.param_shapes(), config)


def _given(value, flag):
  if not value:
    raise UserError(f'this mode needs {flag}')
  return value


def _finished(config, workdir):
  """Returns the Dataset and the folder of a run that exists."""
  dataset, _ = check(_given(config, '--config=configs/NAME.py'))
  workdir = _given(workdir, '--workdir=DIR')
  return dataset, open_run_folder(workdir, config)


def _warn_of_steps(checkpoint, num_steps):
  made_for = checkpoint.card['num_steps']
  if num_steps not in (None, made_for):
    print(
      f'warning: this checkpoint was made for {made_for} sampling steps, not '
      f'{num_steps}',
      file=sys.stderr,
    )


def _finish(config, dataset, workdir, evaluator):
  """Measures a finished run, or draws its samples, and reports."""
  if evaluator is None:
    draw_grids(config, workdir)
    protocol = None
  else:
    evaluate_run(config, workdir, evaluator)
    protocol = evaluator.protocol(config.eval.num_samples)
  _show_report(write_report(config, dataset, workdir, protocol), workdir)


def _show_report(report, workdir):
  print(f'{summary(report)}report: {workdir / "report" / "index.html"}')
