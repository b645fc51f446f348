"""Ancestral sampling with a log-interpolated variance (paper, Eq. 4)."""

import jax.numpy as jnp

from diffusion_distillation.core import process


def ancestral(denoise, z_t, logsnr_t, logsnr_s, noise, *, gamma):
  """Returns z_s, a draw from the posterior; one network evaluation."""
  x_hat = denoise(z_t, logsnr_t)
  mean, std = process.posterior(z_t, x_hat, logsnr_t, logsnr_s, gamma)
  # At data there is nothing left to draw: the mean is x_hat.
  to_data = process.expand(jnp.isinf(logsnr_s), z_t)
  return mean + jnp.where(to_data, 0, std) * noise


def gamma_of(logvar_type):
  """Returns the gamma in [0, 1] that a `logvar_type` names.

  Args:
    logvar_type: 'fixed_small' (0), 'fixed_large' (1) or 'fixed_medium:gamma'.

  Raises:
    ValueError: it names none.
  """
  ends = {'fixed_small': 0.0, 'fixed_large': 1.0}
  if logvar_type in ends:
    return ends[logvar_type]
  kind, _, number = str(logvar_type).partition(':')
  try:
    gamma = float(number)
  except ValueError:
    gamma = -1.0
  if kind != 'fixed_medium' or not 0 <= gamma <= 1:
    raise ValueError(
      f'unknown logvar_type {logvar_type!r}; known: fixed_small, fixed_large, '
      'fixed_medium:g with g in [0, 1]'
    )
  return gamma
