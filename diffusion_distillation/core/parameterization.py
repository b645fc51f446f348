"""Heads: how a network's output becomes x_hat (paper, section 4)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from diffusion_distillation.core.process import alpha_sigma, expand


def _x(output, z, alpha, sigma):
  del z, alpha, sigma
  return output


def _eps(output, z, alpha, sigma):
  return (z - sigma * output) / alpha


# v = alpha eps - sigma x (paper, appendix D).
def _v(output, z, alpha, sigma):
  return alpha * z - sigma * output


# x_hat = sigma^2 x~ + alpha (z - sigma eps~): each part has its weight where it
# is accurate, and nothing is divided (paper, section 4).
def _both(output, z, alpha, sigma):
  out_x, out_eps = jnp.split(output, 2, axis=-1)
  return sigma**2 * out_x + alpha * (z - sigma * out_eps)


# EDM (Karras et al. 2022, arXiv 2206.00364, Table 1), for y = z / alpha at the
# noise level k = sigma / alpha and data of standard deviation d:
# c_skip y + c_out F(c_in y) with c_skip = d^2 / (k^2 + d^2),
# c_out = k d / sqrt(k^2 + d^2) and c_in = 1 / sqrt(k^2 + d^2).
_STD = 0.5


def _edm_input(z, alpha, sigma):
  return z / jnp.sqrt((alpha * _STD) ** 2 + sigma**2)


def _edm(output, z, alpha, sigma):
  squared = (alpha * _STD) ** 2 + sigma**2
  skip = alpha * _STD**2 / squared
  return skip * z + sigma * _STD / jnp.sqrt(squared) * output


# The same for consistency models (Song et al. 2023, arXiv 2303.01469, appendix
# C): it returns y at the lowest noise level, k = 0.002, and not at 0.
_LOWEST = 0.002


def _edm_consistency(output, z, alpha, sigma):
  above = sigma - _LOWEST * alpha
  skip = alpha * _STD**2 / (above**2 + (alpha * _STD) ** 2)
  out = above * _STD / jnp.sqrt((alpha * _STD) ** 2 + sigma**2)
  return skip * z + out * output


def _unscaled(z, alpha, sigma):
  del alpha, sigma
  return z


class Head(NamedTuple):
  """What stands between z, a network and x_hat; alpha and sigma broadcast."""

  to_x_hat: Callable  # (output, z, alpha, sigma) -> x_hat
  scale_input: Callable = _unscaled  # (z, alpha, sigma) -> the network's input
  output_channels: int = 1  # network outputs per channel of the image


HEADS = {
  'x': Head(_x),
  'eps': Head(_eps),
  'v': Head(_v),
  'both': Head(_both, output_channels=2),
  'edm': Head(_edm, _edm_input),
  'edm_consistency': Head(_edm_consistency, _edm_input),
}
# The names in the diffusers library.
ALIASES = {'sample': 'x', 'epsilon': 'eps', 'v_prediction': 'v'}


def canonical(mean_type):
  """Returns the name in HEADS that a mean_type, or its alias, stands for.

  Raises:
    ValueError: the mean_type is unknown.
  """
  name = ALIASES.get(mean_type, mean_type)
  if name not in HEADS:
    known = ', '.join([*HEADS, *ALIASES])
    raise ValueError(f'unknown mean_type {mean_type!r}; known: {known}')
  return name


def get_head(mean_type):
  """Returns the Head of a mean_type, or of its alias.

  Raises:
    ValueError: the mean_type is unknown.
  """
  return HEADS[canonical(mean_type)]


def network_input(mean_type, z, logsnr):
  """Returns the network's input for z, (B, H, W, C) float32.

  Args:
    mean_type: as in `predict_x`.
    z: (B, H, W, C) noisy images.
    logsnr: (B,) noise level of z.

  Raises:
    ValueError: the mean_type is unknown.
  """
  return get_head(mean_type).scale_input(z, *alpha_sigma(expand(logsnr, z)))


def predict_x(mean_type, output, z, logsnr):
  """Returns x_hat, the prediction of the clean images, (B, H, W, C) float32.

  Args:
    mean_type: 'x', 'eps', 'v', 'both' (x and eps, stacked as channels), 'edm'
      or 'edm_consistency'; or one of ALIASES.
    output: (B, H, W, C) network output; (B, H, W, 2 C) for 'both'.
    z: (B, H, W, C) noisy images.
    logsnr: (B,) noise level of z.

  Raises:
    ValueError: the mean_type is unknown.
  """
  alpha, sigma = alpha_sigma(expand(logsnr, z))
  return get_head(mean_type).to_x_hat(output, z, alpha, sigma)
