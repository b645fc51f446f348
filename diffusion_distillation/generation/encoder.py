"""Finds the noise from which DDIM draws given images."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.generation.generator import to_float
from diffusion_distillation.samplers import inversion, sample, split

_BATCH_SIZE = 512


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
    x = to_float(images)
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
