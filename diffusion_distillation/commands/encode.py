"""--mode=encode: finds the noise of images, and draws them again from it."""

import pathlib

import numpy as np

from diffusion_distillation.commands import inputs
from diffusion_distillation.generation import grids
from diffusion_distillation.generation.encoder import encoder
from diffusion_distillation.generation.generator import (
  condition_of,
  to_float,
  to_uint8,
)
from diffusion_distillation.generation.image_files import check_writable
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import split
from diffusion_distillation.training.config import check

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
    grid: spelling of a time grid; None takes that of the checkpoint's sampler.
    num_steps: DDIM steps; None takes the checkpoint's own.
    config: describes the data set, and the network of a file that has no card.

  Raises:
    UserError: there are no images, they do not fit the checkpoint, or `out`
      cannot be written.
  """
  inputs.check_suffix(out, '.png', '.npz')
  inputs.check_not_input(out, images)
  check_writable(out)
  if images is None and config is None:
    raise UserError(
      '--mode=encode needs --images=PATH, or --config=FILE.py for the held-out '
      'images of its data set'
    )
  checkpoint = inputs.load_checkpoint(checkpoint, config)
  card = checkpoint.card
  label = inputs.parse_classes(class_, card.num_classes)
  grid = grid or split(card.sampler)[1]
  sampler, num_steps = inputs.sampling_of(card, 'ddim', num_steps, grid)
  if images is None:
    originals, condition = _heldout(config, card)
  else:
    inputs.check_classes(card, label)
    originals = inputs.read_images(images, card)
    numbers = np.arange(len(originals))
    condition = condition_of(numbers, card.num_classes, label)
  found = encoder(card, sampler, iterations)
  noise, drawn = found(checkpoint.weights, originals, condition, num_steps)
  error = np.sqrt(np.mean((drawn - to_float(originals)) ** 2))
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
