"""What main.py does with one checkpoint, or with any images."""

import sys

from ml_collections import ConfigDict

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import weight_files
from diffusion_distillation.core import schedules
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.generation.image_files import ImageFiles
from diffusion_distillation.generation.sample_files import (
  check_writable,
  parse_seeds,
  write_samples,
)
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.report import run
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import METHODS
from diffusion_distillation.samplers.ancestral import gamma_of
from diffusion_distillation.training.config import check, check_numbers

# Keys of config.eval that name files.
_PLACES = ('cache_dir', 'inception_path', 'reference_path')


def sample(checkpoint, seeds, out, sampler, num_steps, config):
  """Draws samples of a checkpoint into `out`."""
  path = given(checkpoint, '--checkpoint=PATH')
  seeds, out = parse_seeds(seeds), given(out, '--out=FILE.npz or --out=FOLDER')
  checkpoint = _load(path, config)
  _check_card(checkpoint)
  method, num_steps = _sampling(checkpoint.card, sampler, num_steps)
  write_samples(
    checkpoint, seeds=seeds, out=out, method=method, num_steps=num_steps
  )
  print(f'wrote {len(seeds)} samples to {out}')


def export(checkpoint, out, config):
  """Writes the weights of a checkpoint to one file."""
  path = given(checkpoint, '--checkpoint=PATH')
  out = given(out, "--out=FILE.safetensors, or FILE in the original's format")
  check_writable(out, is_file=True)
  checkpoint = _load(path, config)
  weight_files.write(checkpoint, out)
  print(f'wrote the weights of {checkpoint.path} to {out}')


def evaluate_checkpoint(path, config, sampler, num_steps):
  """Returns the figures of one checkpoint.

  How to measure it, the config says, if one is given, or else the card.
  """
  checkpoint = _load(path, config)
  card = checkpoint.card
  method, num_steps = _sampling(card, sampler, num_steps)
  if config is not None:
    dataset, _ = check(config)
  else:
    config, dataset = _measuring(card, path)
  if list(dataset.image_shape) != list(card['image_shape']):
    raise UserError(
      f'{path} draws images of {card["image_shape"]}, the config has a data '
      f'set of {list(dataset.image_shape)}'
    )
  _check_card(checkpoint)
  evaluator = open_evaluator(config, dataset)
  return run.evaluate_checkpoint(
    config, checkpoint, evaluator, method=method, num_steps=num_steps
  )


def _measuring(card, path):
  """Returns the config that a card bears, and its Dataset.

  A card may be anybody's: the files that it names, to read or to write, are
  not touched.

  Raises:
    UserError: it does not say enough.
  """
  give = 'give --config=configs/NAME.py'
  config = card['config'] or {}
  if 'eval' not in config:
    raise UserError(f'{path} does not say how it is measured; {give}')
  settings = {**config['eval'], **dict.fromkeys(_PLACES)}
  try:
    config = ConfigDict({**config, 'eval': settings})
    check_numbers(config)
    for key in ('num_samples', 'batch_size'):
      if type(settings.get(key)) is not int:
        raise ValueError(f'eval.{key} is {settings.get(key)!r}')
    name, args = config.dataset.name, config.dataset.args
    if any(args.get(place) for place in ('path', 'data_dir')):
      raise ValueError('its data are in a folder that it names')
    return config, load_dataset(name, args)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} cannot be measured by its card: {files.reason(error)}; {give}'
    ) from error


def evaluate_images(path, config):
  """Returns the figures of any images."""
  dataset, _ = check(given(config, '--config=configs/NAME.py'))
  evaluator = open_evaluator(config, dataset)
  images = ImageFiles(path, dataset.image_shape)
  protocol = evaluator.protocol(images.num_images, f'all of {path}')
  return {'metric': protocol, **evaluator.measure(images, images.num_images)}


def given(value, flag):
  """Returns a flag's value.

  Raises:
    UserError: there is none.
  """
  if not value:
    raise UserError(f'this mode needs {flag}')
  return value


def _load(path, config):
  """Returns the Checkpoint at a path; `config` describes the original's."""
  if config is None or not weight_files.needs_config(path):
    return checkpoints.load(path, fall_back=True)
  _, denoiser = check(config)
  return checkpoints.load(path, denoiser.param_shapes(), config)


def _check_card(checkpoint):
  """Checks that a card says what can be sampled, and how.

  Raises:
    UserError: it does not, or the weights are not those of its network.
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


def _sampling(card, sampler, num_steps):
  """Returns the method and the number of steps to sample a checkpoint with.

  What is not given, the card says.

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
      f'warning: by {sampler}, this checkpoint was made for {made_for} '
      f'sampling steps, not {num_steps}',
      file=sys.stderr,
    )
  return sampler, made_for if num_steps is None else num_steps
