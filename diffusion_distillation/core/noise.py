"""Noise to diffuse images with: Gaussian, or of a Gamma distribution.

Gamma noise (Nachmani et al. 2021, arXiv 2106.07582) keeps alpha and sigma of
`core/process.py` and replaces the normal eps in z_t = alpha_t x + sigma_t eps:

  (1)  eps = (G - k_t) / sqrt(k_t),  G ~ Gamma(shape k_t, scale 1),
       k_t = e^{-lambda_t} / theta_0^2,

of mean 0, variance 1 and skewness 2 / sqrt(k_t) = 2 theta_0 e^{lambda_t / 2}.
It is the paper's z_t = alpha_t x + g - E g, where g ~ Gamma(k_t, theta_t) has
the scale theta_t = alpha_t theta_0, so that k_t theta_t^2 = sigma_t^2. It is
nearly normal where there is much noise and skewed near data.
"""

import functools
import math

import jax
import jax.numpy as jnp

# Above this shape the skewness is below 0.02, and a normal distribution is
# drawn: at the noisy end, with shapes of 1e14, a Gamma draw in float32 keeps no
# digit of its difference from the mean.
_LARGEST_SHAPE = 1e4


def gaussian_noise(key, shape, logsnr):
  """Returns standard normal noise, whatever the noise level."""
  del logsnr
  return jax.random.normal(key, shape)


def gamma_noise(key, shape, logsnr, theta_0):
  """Returns Gamma noise of mean 0 and variance 1, a draw of Eq. (1).

  Args:
    key: random key.
    shape: shape of the noise.
    logsnr: the noise level, a scalar or an array that fits the shape.
    theta_0: positive; 0.001 in the paper.
  """
  log_k = -logsnr - 2 * math.log(theta_0)
  k = jnp.exp(jnp.minimum(log_k, math.log(_LARGEST_SHAPE)))
  skewed = (jax.random.gamma(key, k, shape) - k) / jnp.sqrt(k)
  normal = jax.random.normal(key, shape)
  return jnp.where(log_k > math.log(_LARGEST_SHAPE), normal, skewed)


def normal_to_gamma(noise, logsnr, theta_0):
  """Returns Gamma noise made of standard normal noise, nearly Eq. (1).

  It uses the approximation of Wilson and Hilferty: the cube root of G / k_t is
  nearly normal, with mean 1 - 1 / (9 k_t) and variance 1 / (9 k_t). Within 3
  standard deviations, the error of a draw is at most 0.002 standard deviations
  for k_t of 100 and more, 0.02 for 10 and 0.14 for 1. For k_t below 1 it is
  larger, but sigma_t is then less than theta_0; a theta_0 of 0.001 is an eighth
  of a grey level of uint8.

  Args:
    noise: standard normal.
    logsnr: the noise level, a scalar or an array that fits the noise.
    theta_0: as in `gamma_noise`.
  """
  # With r = 1 / sqrt(k), G / k = (1 + r e)^3. The expansion of this cube does
  # not subtract k from G, so that it keeps its digits at any k.
  r = theta_0 * jnp.exp(logsnr / 2)
  e = jnp.maximum(noise / 3 - r / 9, -1 / r)  # G is not negative
  return e * (3 + 3 * r * e + (r * e) ** 2)


def get_noise(name, theta_0):
  """Returns draw(key, shape, logsnr) -> noise of mean 0 and variance 1.

  Args:
    name: 'gaussian' or 'gamma'.
    theta_0: as in `gamma_noise`; Gaussian noise does not use it.

  Raises:
    ValueError: the name is unknown.
  """
  known = {
    'gaussian': gaussian_noise,
    'gamma': functools.partial(gamma_noise, theta_0=theta_0),
  }
  if name not in known:
    raise ValueError(f'unknown noise {name!r}; known: {", ".join(known)}')
  return known[name]


# Folded into the keys of images, so that they differ from the keys of training.
_DOMAIN = int.from_bytes(b'imag')


def noise_of(seeds, image_shape):
  """Returns the noise z_1 of each seed's image, and a key for further noise.

  Args:
    seeds: (B,) uint32.
    image_shape: (H, W, C).

  Returns:
    (B, H, W, C) float32 standard normal, and (B,) keys.
  """
  key = jax.random.key(_DOMAIN)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, seeds)
  noise_keys, step_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  normal = jax.vmap(lambda key: jax.random.normal(key, image_shape))
  return normal(noise_keys), step_keys
