"""Multistep sampling of consistency models."""

import math

import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.samplers.sampler import one_step


def consistency(sigma_min=0.0):
  """Returns multistep consistency sampling (Song et al. 2023, Algorithm 1).

  Each step predicts clean images and adds new noise (arXiv 2303.01469):
  z_s = alpha_s x_hat + alpha_s sqrt(k_s^2 - sigma_min^2) noise with the noise
  level k_s = sigma_s / alpha_s.

  Args:
    sigma_min: noise level that the network takes for clean images; 0.002 in the
      original program.

  Raises:
    ValueError: sigma_min is negative.
  """
  if not 0 <= sigma_min < math.inf:
    raise ValueError(f'sigma_min must be at least 0, got {sigma_min}')

  def advance(z_t, x_hat, step):
    logsnr_s = process.expand(step.logsnr_s, z_t)
    alpha_s, _ = process.alpha_sigma(logsnr_s)
    variance = jnp.maximum(jnp.exp(-logsnr_s) - sigma_min**2, 0)
    return alpha_s * (x_hat + jnp.sqrt(variance) * step.noise)

  return one_step(advance, order=0, draws_noise=True)
