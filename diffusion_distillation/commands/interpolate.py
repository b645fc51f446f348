"""--mode=interpolate: draws images between those of seeds, or given ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.commands import inputs
from diffusion_distillation.core.noise import noise_of
from diffusion_distillation.generation import grids
from diffusion_distillation.generation.encoder import encoder
from diffusion_distillation.generation.generator import (
  condition_of,
  to_uint8,
)
from diffusion_distillation.generation.image_files import (
  check_writable,
  parse_seeds,
)
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import make_sampler, sample
from diffusion_distillation.samplers.inversion import slerp

_ITERATIONS = 3  # corrections of each step when given images are encoded


def interpolate(
  checkpoint,
  out,
  seeds=None,
  images=None,
  num=11,
  class_=None,
  sampler=None,
  grid=None,
  num_steps=None,
  config=None,
):
  """Writes a picture with rows of images, each from one end to the next.

  The ends are the images of seeds, or given images. The noise of a row's images
  lies on the arc between the noise of its ends. Each image has the class of the
  nearer end.

  Args:
    checkpoint: path of a checkpoint.
    out: path of a .png.
    seeds: text such as '3,8' with at least two seeds, whose images
      --mode=sample draws.
    images: path of images, instead of seeds.
    num: images in a row, including its ends.
    class_: as in --mode=sample, by the number of the seed or of the image.
    sampler: spelling of a sampler that draws no noise; None takes the
      checkpoint's.
    grid: spelling of a time grid; None takes the sampler's.
    num_steps: sampling steps; None takes the checkpoint's own.
    config: describes the network of a file that has no card.

  Raises:
    UserError: there are fewer than two ends, the checkpoint cannot be sampled
      in this way, or `out` cannot be written.
  """
  if (seeds is None) == (images is None):
    raise UserError(
      '--mode=interpolate needs one of --seeds=3,8 and --images=PATH'
    )
  inputs.check_suffix(out, '.png')
  inputs.check_not_input(out, images)
  check_writable(out)
  numbers = None if seeds is None else parse_seeds(seeds)
  checkpoint = inputs.load_checkpoint(checkpoint, config)
  card, weights = checkpoint.card, checkpoint.weights
  sampler, num_steps = inputs.sampling_of(card, sampler, num_steps, grid)
  if make_sampler(sampler).draws_noise:
    raise UserError(
      f'{sampler} draws noise in every step, so neighbouring images would not '
      'resemble each other; give --sampler=ddim'
    )
  label = inputs.parse_classes(class_, card.num_classes)
  if numbers is None:
    ends = inputs.read_images(images, card)
    numbers = np.arange(len(ends))
  if len(numbers) < 2:
    raise UserError(
      '--mode=interpolate needs at least two different seeds, or two images'
    )
  condition = condition_of(numbers, card.num_classes, label)
  if seeds is None:
    inputs.check_classes(card, label)
    encode = encoder(card, sampler, _ITERATIONS)
    ends, _ = encode(weights, ends, condition, num_steps)
  else:
    ends, _ = noise_of(numbers.astype(np.uint32), card.image_shape)
  draw = _row_drawer(card, num, sampler, num_steps)
  pairs = list(itertools.pairwise(range(len(numbers))))
  rows = [draw(weights, ends, condition, i, j) for i, j in pairs]
  page = grids.grid(np.concatenate(rows), columns=num, rows=len(rows))
  grids.save_image(page, out)
  print(f'wrote {len(rows)} x {num} images to {out}')


def _row_drawer(card, num, sampler, num_steps):
  """Returns (weights, ends, condition, i, j) -> the images between two ends.

  They are (num, H, W, C) uint8, from end i to end j.
  """
  shares = np.linspace(0, 1, num, dtype=np.float32)

  @jax.jit
  def draw(weights, a, b, condition):
    a, b = (jnp.broadcast_to(end, (num, *end.shape)) for end in (a, b))
    x = sample(
      card.denoiser().bind(weights, condition),
      slerp(a, b, shares),
      schedule=card.schedule(),
      num_steps=num_steps,
      sampler=sampler,
      clip=card.clip,
    )
    return to_uint8(x)

  def row(weights, ends, condition, i, j):
    nearer = np.where(shares < 0.5, i, j)
    of_row = {key: values[nearer] for key, values in condition.items()}
    return np.asarray(draw(weights, ends[i], ends[j], of_row))

  return row
