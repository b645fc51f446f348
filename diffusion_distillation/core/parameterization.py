"""What a network's output means: every head is a map to x_hat (section 4)."""

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


# x_hat = sigma^2 x~ + alpha (z - sigma eps~): each part weighs where it is
# accurate, and nothing is divided (paper, section 4).
def _both(output, z, alpha, sigma):
  out_x, out_eps = jnp.split(output, 2, axis=-1)
  return sigma**2 * out_x + alpha * (z - sigma * out_eps)


HEADS = {'x': _x, 'eps': _eps, 'v': _v, 'both': _both}
# What diffusers calls them.
ALIASES = {'sample': 'x', 'epsilon': 'eps', 'v_prediction': 'v'}


def canonical(mean_type):
  """Returns the name among HEADS that a mean_type, or its alias, means.

  Raises:
    ValueError: there is none.
  """
  name = ALIASES.get(mean_type, mean_type)
  if name not in HEADS:
    known = ', '.join([*HEADS, *ALIASES])
    raise ValueError(f'unknown mean_type {mean_type!r}; known: {known}')
  return name


def x_hat(mean_type, output, z, logsnr):
  """Returns the prediction of the clean images, (B, H, W, C) float32.

  Args:
    mean_type: 'x', 'eps', 'v', or 'both' (x and eps, stacked as channels); or
      one of ALIASES.
    output: (B, H, W, C) network output; (B, H, W, 2 C) for 'both'.
    z: (B, H, W, C) noisy images.
    logsnr: (B,) noise level of z.

  Raises:
    ValueError: the mean_type is unknown.
  """
  alpha, sigma = alpha_sigma(expand(logsnr, z))
  return HEADS[canonical(mean_type)](output, z, alpha, sigma)


def output_channels(mean_type, image_channels):
  """Returns how many channels the network must put out for this head."""
  both = canonical(mean_type) == 'both'
  return 2 * image_channels if both else image_channels
