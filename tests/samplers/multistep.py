"""A multistep sampler, to test what a sampler with a memory needs."""

import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.samplers import Sampler


def adams_bashforth():
  """Returns the two-step Adams-Bashforth method in log-SNR; order 2.

  Its first step, which has no memory yet, is Euler's.
  """

  def init(z):
    batch = (z.shape[0],)
    return {'slope': 0 * z, 'h': jnp.full(batch, jnp.inf, z.dtype)}

  def step(z_t, x_hat, step, memory):
    h = step.logsnr_s - step.logsnr_t
    slope = process.probability_flow(z_t, x_hat, step.logsnr_t)
    weight = process.expand(h / (2 * memory['h']), z_t)  # 0 in the first step
    change = (1 + weight) * slope - weight * memory['slope']
    z_s = z_t + process.expand(h, z_t) * change
    return z_s, {'slope': slope, 'h': h}

  return Sampler(step, order=2, init=init)
