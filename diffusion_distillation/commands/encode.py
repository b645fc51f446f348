"""--mode=encode: finds the noise of images, and draws them again from it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.commands import inputs
from diffusion_distillation.commands.sample import parse_classes
from diffusion_distillation.generation import grids
from diffusion_distillation.generation.generator import condition_of, to_uint8
from diffusion_distillation.generation.image_files import (
  ImageFiles,
  check_writable,
)
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import inversion, sample, split
from diffusion_distillation.training.config import check

_BATCH_SIZE = 512
_HELDOUT = 64  # images of a data set that are encoded
_COLUMNS = 20  # of the picture


def encode(
  checkpoint,
  out,
  images=None,
  iterations=0,
  class_=None,
  grid=None,
  num_steps=None,
  config=None,
):
  """Finds the noise from which DDIM draws given images, and prints the error.

  Args:
    checkpoint: path of a checkpoint.
    out: path of a .png, which gets the first images and, below them, the images
      drawn from their noise; or path of a .npz, which gets `noise`,
      (N, H, W, C) float32, and `arr_0`, all images drawn from it.
    images: path of images; None takes held-out ones of the config's data set.
    iterations: corrections of each step.
    class_: the classes of given images, in turn, as in --mode=sample.
    grid: spelling of a time grid.
    num_steps: DDIM steps; None takes the checkpoint's own.
    config: describes the data set, and the network of a file that has no card.

  Raises:
    UserError: there are no images, they do not fit the checkpoint, or `out`
      cannot be written.
  """
  inputs.check_suffix(out, '.png', '.npz')
  check_writable(out)
  if images is None and config is None:
    raise UserError(
      '--mode=encode needs --images=PATH, or --config=FILE.py for the held-out '
      'images of its data set'
    )
  checkpoint = inputs.load_checkpoint(checkpoint, config)
  card = checkpoint.card
  sampler, num_steps = inputs.sampling_of(card, 'ddim', num_steps, grid)
  label = parse_classes(class_, card.num_classes)
  if images is None:
    originals, condition = _heldout(config, card)
  else:
    inputs.check_classes(card, label)
    originals = read_images(images, card)
    numbers = np.arange(len(originals))
    condition = condition_of(numbers, card.num_classes, label)
  found = encoder(card, sampler, iterations)
  noise, drawn = found(checkpoint.weights, originals, condition, num_steps)
  error = np.sqrt(np.mean((drawn - _to_float(originals)) ** 2))
  if pathlib.Path(out).suffix.lower() == '.npz':
    files.write_npz(out, {'arr_0': to_uint8(drawn), 'noise': noise})
  else:
    shown = [originals[:_COLUMNS], np.asarray(to_uint8(drawn[:_COLUMNS]))]
    page = grids.grid(np.concatenate(shown), columns=len(shown[0]), rows=2)
    grids.save_image(page, out)
  print(
    f'RMSE {error:.4f} of {len(drawn)} images in [-1, 1] drawn again from '
    f'their noise, whose standard deviation is {noise.std():.3f}; wrote {out}'
  )


def encoder(card, sampler, iterations):
  """Returns a function that finds the noise of images and draws them again.

  Args:
    card: Card of the network.
    sampler: spelling of `ddim` with a time grid.
    iterations: corrections of each step.

  Returns:
    (weights, images (N, H, W, C) uint8, condition, num_steps) -> noise and
    images, (N, H, W, C) float32 on the host.
  """

  @jax.jit
  def run(weights, images, condition, num_steps):
    denoise = card.denoiser().bind(weights, condition)
    settings = {
      'schedule': card.schedule(),
      'num_steps': num_steps,
      'grid': split(sampler)[1],
      'clip': card.clip,
    }
    x = _to_float(images)
    z_1 = inversion.encode(denoise, x, iterations=iterations, **settings)
    return z_1, sample(denoise, z_1, **settings)

  def all_of(weights, images, condition, num_steps):
    parts = []
    for first in range(0, len(images), _BATCH_SIZE):
      batch = jax.tree.map(
        lambda array, first=first: array[first : first + _BATCH_SIZE],
        (images, condition),
      )
      parts.append(jax.device_get(run(weights, *batch, jnp.int32(num_steps))))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]

  return all_of


def read_images(path, card):
  """Returns the images at a path, (N, H, W, C) uint8.

  Raises:
    UserError: they cannot be read, or do not have the card's size.
  """
  return np.concatenate(list(ImageFiles(path, card.image_shape)))


def _heldout(config, card):
  """Returns held-out images of a config's data set, and their condition."""
  dataset, _ = check(config)
  if (dataset.image_shape, dataset.num_classes) != (
    card.image_shape,
    card.num_classes,
  ):
    raise UserError(
      f'the checkpoint has {card.num_classes} classes and images of '
      f'{card.image_shape}, but the data set of the config has '
      f'{dataset.num_classes} and {dataset.image_shape}; give --images=PATH'
    )
  count = min(_HELDOUT, len(dataset.heldout))
  examples = [dataset.heldout[i] for i in range(count)]
  images, labels = (
    np.stack([example[key] for example in examples])
    for key in ('image', 'label')
  )
  return images, {'label': labels.astype(np.int32)}


def _to_float(images):
  return images.astype(np.float32) / 127.5 - 1
