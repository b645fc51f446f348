"""What main.py can be asked to do: one function for each mode."""

import functools
import json
import sys

import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.errors import UserError
from diffusion_distillation.evaluation import plots
from diffusion_distillation.evaluation.evaluate import (
  draw_grids,
  evaluate_run,
)
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.evaluation.feature_sets import batches_of
from diffusion_distillation.evaluation.features import NO_WEIGHTS
from diffusion_distillation.evaluation.generate import Generator
from diffusion_distillation.evaluation.image_files import ImageFiles
from diffusion_distillation.evaluation.report import write_report
from diffusion_distillation.evaluation.sample_files import (
  parse_seeds,
  write_samples,
)
from diffusion_distillation.training import checkpoints
from diffusion_distillation.training import plan as plans
from diffusion_distillation.training.cards import card_of
from diffusion_distillation.training.log import Progress, RunLog
from diffusion_distillation.training.progressive import (
  Trainer,
  find_teacher,
)
from diffusion_distillation.training.run_folder import (
  open_run_folder,
  teacher_of,
)
from diffusion_distillation.training.settings import check


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


def evaluate(config, workdir):
  """Measures what is not measured yet of a finished run."""
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


def sample(checkpoint, seeds, out, num_steps):
  """Draws samples of a checkpoint into `out`."""
  path = _given(checkpoint, '--checkpoint=PATH')
  seeds, out = parse_seeds(seeds), _given(out, '--out=FILE.npz or --out=FOLDER')
  _warn_of_steps(path, num_steps)
  write_samples(path, seeds=seeds, out=out, num_steps=num_steps)
  print(f'wrote {len(seeds)} samples to {out}')


def evaluate_checkpoint(path, num_steps, config):
  """Prints the figures of one checkpoint, by its own sampler, as JSON.

  How to measure it, the config says, if one is given, or else the card.
  """
  card = checkpoints.read_card(path)
  _warn_of_steps(path, num_steps)
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
  num_samples = config.eval.num_samples
  images = Generator(card, config.eval.batch_size).images(
    checkpoints.load(path).weights,
    np.arange(num_samples),
    num_steps,
    card['sampler'],
    Progress('evaluate', num_samples, 'images').show,
  )
  figures = {'num_steps': num_steps, **evaluator.measure(batches_of(images))}
  print(
    json.dumps({'metric': evaluator.protocol(num_samples), **figures}, indent=2)
  )


def evaluate_images(path, config):
  """Prints the figures of any images, as JSON."""
  dataset, _ = check(_given(config, '--config=configs/NAME.py'))
  evaluator = open_evaluator(config, dataset)
  images = ImageFiles(path, dataset.image_shape)
  protocol = evaluator.protocol(images.num_images, f'all of {path}')
  figures = evaluator.measure(images)
  print(json.dumps({'metric': protocol, **figures}, indent=2))


def _given(value, flag):
  if not value:
    raise UserError(f'this mode needs {flag}')
  return value


def _finished(config, workdir):
  """Returns the Dataset and the folder of a run that exists."""
  dataset, _ = check(_given(config, '--config=configs/NAME.py'))
  workdir = _given(workdir, '--workdir=DIR')
  return dataset, open_run_folder(workdir, config)


def _warn_of_steps(path, num_steps):
  card = checkpoints.read_card(path)
  if num_steps not in (None, card['num_steps']):
    print(
      f'warning: this checkpoint was made for {card["num_steps"]} sampling '
      f'steps, not {num_steps}',
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
  if report['metric'] is not None:
    label = report['metric']['label']
    print(f'{"sampler":<24}{"steps":>6}{label:>18}{"precision":>11}')
    for row in report['rows']:
      distance, precision = (
        f'{row[key]:.3f}' if key in row else ''
        for key in ('frechet_distance', 'precision')
      )
      print(
        f'{row["sampler"]:<24}{row["num_steps"]:>6}'
        f'{distance:>18}{precision:>11}'
      )
  print(f'report: {workdir / "report" / "index.html"}')
