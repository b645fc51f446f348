"""Checkpoints, their data and samplers, for modes that take a checkpoint."""

import os
import pathlib
import sys

import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation import checkpoints
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.generation.image_files import ImageFiles
from diffusion_distillation.report import labels
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import read_run
from diffusion_distillation.samplers import canonical, make_sampler, split
from diffusion_distillation.training.config import check, check_numbers, rounds

# Keys of config.eval that name files.
_PATHS = ('cache_dir', 'inception_path', 'reference_path')


def load_checkpoint(path, config=None):
  """Returns the Checkpoint at a path.

  Args:
    path: a folder of checkpoints or a file of weights.
    config: describes the network of a file that has no card.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  if config is not None:
    check(config)
  return checkpoints.load(path, config, fall_back=True)


def check_rounds(config, workdir):
  """Checks that a run was last trained with the rounds of a config.

  Raises:
    UserError: it was trained with other rounds, so that some rounds would be
      left out, or missing.
  """
  names = [each['name'] for each in read_run(workdir)['rounds']]
  if names != [each.name for each in rounds(config)]:
    raise UserError(
      f'the newest training in {workdir} had the rounds {", ".join(names)}, '
      'not those of this config; give the same distillation.end_num_steps and '
      'distillation.methods, or run --mode=train'
    )


def sampling_of(card, sampler=None, num_steps=None, grid=None):
  """Returns the sampler and the number of steps to sample a checkpoint with.

  A number of steps that the checkpoint was not made for, and a sampler for
  networks that are trained otherwise, give a warning.

  Args:
    card: Card of the checkpoint; its sampler and steps are the defaults.
    sampler: spelling of a sampler, or None.
    num_steps: int, or None.
    grid: spelling of a time grid; None takes the sampler's.

  Raises:
    UserError: the sampler or the time grid is unknown.
  """
  spelling = sampler or card.sampler
  if grid is not None:
    spelling = f'{split(spelling)[0]}@{grid}'
  try:
    spelling = canonical(spelling)
  except ValueError as error:
    raise UserError(f'--sampler or --grid: {error}') from error
  made = make_sampler(spelling)
  trained = (card.config or {}).get('model', {})
  if any(trained.get(key) != value for key, value in made.model.items()):
    wanted = (f'model.{key}={value}' for key, value in made.model.items())
    print(
      f'warning: {spelling} is for networks trained with {", ".join(wanted)}, '
      'which this checkpoint was not',
      file=sys.stderr,
    )
  made_for = made.steps_per_student_step * card.num_steps
  # A network that is made for a sampler of order 0, which solves no equation,
  # may be sampled by it in any number of steps.
  own = made.order == 0 and _name(spelling) == _name(card.sampler)
  if num_steps not in (None, made_for) and not own:
    print(
      f'warning: with {spelling}, this checkpoint was made for '
      f'{labels.steps(made_for)}, not {num_steps}',
      file=sys.stderr,
    )
  return spelling, made_for if num_steps is None else num_steps


def _name(spelling):
  return split(spelling)[0].partition(':')[0]


def data_of(card, path, config=None):
  """Returns the config and the Dataset to measure a checkpoint with.

  Args:
    card: Card of the checkpoint.
    path: its path, for error messages.
    config: a config; None takes the one inside the card.

  Raises:
    UserError: the card does not describe the data, or the config has images of
      another shape.
  """
  if config is None:
    config, dataset = _config_of(card, path)
  else:
    dataset, _ = check(config)
  if dataset.image_shape != card.image_shape:
    raise UserError(
      f'{path} draws images of {card.image_shape}, but the data set of the '
      f'config has {dataset.image_shape}'
    )
  return config, dataset


def _config_of(card, path):
  """Returns the config inside a card, and its Dataset.

  A card may come from an untrusted file, so the paths in it are neither read
  nor written.

  Raises:
    UserError: the card does not describe the evaluation.
  """
  give = 'give --config=FILE.py'
  config = card.config or {}
  if 'eval' not in config:
    raise UserError(f'{path} does not say how to measure it; {give}')
  settings = {**config['eval'], **dict.fromkeys(_PATHS)}
  try:
    config = ConfigDict({**config, 'eval': settings})
    check_numbers(config)
    for key in ('num_samples', 'batch_size'):
      if settings.get(key) is None:
        raise ValueError(f'eval.{key} is None')
    name, args = config.dataset.name, config.dataset.args
    if any(args.get(key) for key in ('path', 'data_dir')):
      raise ValueError('its data set is a folder, which is not opened')
    return config, load_dataset(name, args)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'the card of {path} does not say how to measure it: '
      f'{files.reason(error)}; {give}'
    ) from error


def check_not_input(out, images):
  """Raises UserError if a file to write is the one that images come from."""
  paths = [path for path in (out, images) if path and os.path.exists(path)]
  if len(paths) == 2 and os.path.samefile(*paths):
    raise UserError(f'--out={out} would replace --images; give another path')


def check_suffix(out, *suffixes):
  """Raises UserError unless a path has one of the suffixes."""
  if pathlib.Path(out).suffix.lower() not in suffixes:
    known = ' or '.join(f'FILE{suffix}' for suffix in suffixes)
    raise UserError(f'--out={out}: give {known}')


def check_classes(card, label):
  """Checks that the classes of given images are known.

  Args:
    card: Card of the checkpoint.
    label: the classes, or None.

  Raises:
    UserError: the checkpoint has classes, and none are given.
  """
  if card.num_classes > 1 and label is None:
    raise UserError(
      'this checkpoint has classes; give those of the images in turn, such as '
      '--class=3,1,4'
    )


def parse_classes(text, num_classes):
  """Returns the classes to draw, (K,) ints, or None for all of them.

  Args:
    text: such as '3' or '1,5'; None stands for all classes.
    num_classes: classes of the checkpoint; 1 if it is unconditional.

  Raises:
    UserError: the text does not name classes of the checkpoint.
  """
  if text is None:
    return None
  if num_classes == 1:
    raise UserError(f'--class={text}: this checkpoint has no classes')
  known = {str(number): number for number in range(num_classes)}
  classes = [known.get(part.strip()) for part in text.split(',')]
  if None in classes:
    raise UserError(
      f'--class={text} must be one or more of 0 to {num_classes - 1}, such as '
      f'0 or 0,{num_classes - 1}'
    )
  return np.array(classes)


def read_images(path, card):
  """Returns the images at a path, (N, H, W, C) uint8.

  Raises:
    UserError: they cannot be read, or do not have the card's size.
  """
  return np.concatenate(list(ImageFiles(path, card.image_shape)))
