"""Checkpoints, and how to sample them, as several modes ask for them."""

import sys

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import weight_files
from diffusion_distillation.core import schedules
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import METHODS
from diffusion_distillation.samplers.ancestral import gamma_of
from diffusion_distillation.training.config import check


def load_checkpoint(path, config=None):
  """Returns the Checkpoint at a path.

  Args:
    path: a folder of checkpoints or a file of weights.
    config: describes the network of a file that has no card.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  if config is None or not weight_files.needs_config(path):
    return checkpoints.load(path, fall_back=True)
  _, denoiser = check(config)
  return checkpoints.load(path, denoiser.param_shapes(), config)


def check_card(checkpoint):
  """Checks that the card of a Checkpoint can be sampled, and fits its weights.

  Raises:
    UserError: it cannot, or does not.
  """
  card, path = checkpoint.card, checkpoint.path
  try:
    model = {'mean_type': card['mean_type'], 'args': card['args']}
    denoiser = build_denoiser(model, card['image_shape'], card['num_classes'])
    schedules.get_logsnr_schedule(**card['logsnr_schedule'])
    gamma_of(card['logvar_type'])
    shapes = denoiser.param_shapes()
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'the card of {path} cannot be used: {files.reason(error)}'
    ) from error
  weight_files.check_match(path, checkpoint.weights, shapes)


def sampling_of(card, sampler=None, num_steps=None):
  """Returns the sampler and the number of steps to sample a checkpoint with.

  A number of steps that the checkpoint was not made for gives a warning.

  Args:
    card: of the checkpoint; its own sampler and steps are the defaults.
    sampler: name of a sampler, or None.
    num_steps: int, or None.

  Raises:
    UserError: there is no such sampler.
  """
  sampler = sampler or card['sampler']
  if sampler not in METHODS:
    known = ', '.join(METHODS)
    raise UserError(f'unknown --sampler={sampler}; known: {known}')
  made_for = METHODS[sampler].span * card['num_steps']
  if num_steps not in (None, made_for):
    print(
      f'warning: with {sampler}, this checkpoint was made for {made_for} '
      f'sampling steps, not {num_steps}',
      file=sys.stderr,
    )
  return sampler, made_for if num_steps is None else num_steps
