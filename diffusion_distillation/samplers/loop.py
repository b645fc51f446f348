"""The sampling loop, shared by all methods."""

import functools
import numbers

import chex
import jax
import jax.numpy as jnp

from diffusion_distillation.samplers.methods import METHODS
from diffusion_distillation.samplers.step import Step


def sample(
  denoise,
  z_1,
  *,
  schedule,
  num_steps,
  method='ddim',
  clip=True,
  key=None,
  gamma=None,
):
  """Returns images in [-1, 1] (where clipped), (B, H, W, C) float32.

  Each step predicts x_hat and lets the method advance to the next noise level.
  The last step goes to data and returns x_hat, as DDIM and every posterior do
  there; an integrator in log-SNR would have an infinite way to go. So in one
  step all methods are DDIM.

  The loop is one compiled function, and the number of steps may be traced: one
  compilation then serves every step count.

  Args:
    denoise: (z, logsnr) -> x_hat.
    z_1: (B, H, W, C) float32 standard normal noise.
    schedule: t -> logsnr.
    num_steps: N >= 1, an int or a scalar integer array; the times are N/N, ...,
      1/N, and the last step goes to data.
    method: a name in METHODS.
    clip: whether x_hat is clipped to [-1, 1] wherever it is predicted.
    key: where the method draws noise, a random key, or (B,) keys, one for each
      image.
    gamma: for 'ancestral', in [0, 1]: small (0) to large (1) variance, which is
      the default.

  Raises:
    ValueError: unknown method, num_steps < 1, or key or gamma do not fit it.
  """
  _check(method, num_steps, key, gamma)
  chex.assert_type(z_1, jnp.float32)
  advance, draws_noise = METHODS[method].advance, METHODS[method].draws_noise
  if gamma is not None:
    advance = functools.partial(advance, gamma=gamma)
  if draws_noise:
    key = _key_per_image(key, z_1.shape[0])

  def clipped(z, logsnr):
    x_hat = denoise(z, logsnr)
    chex.assert_trees_all_equal_shapes_and_dtypes(z, x_hat)
    return jnp.clip(x_hat, -1, 1) if clip else x_hat

  def body(i, z_t):
    index = jnp.full((z_t.shape[0],), num_steps - 1 - i, jnp.int32)  # (B,)
    noise = _noise(key, i, z_t) if draws_noise else None
    step = Step(clipped, schedule, index, num_steps, noise)
    x_hat = clipped(z_t, step.logsnr_t)
    return jax.lax.cond(
      i == num_steps - 1, lambda: x_hat, lambda: advance(z_t, x_hat, step)
    )

  return jax.lax.fori_loop(0, num_steps, body, z_1)


def _check(method, num_steps, key, gamma):
  """Raises ValueError for what makes no sense, alone or together."""
  if method not in METHODS:
    known = ', '.join(METHODS)
    raise ValueError(f'unknown sampler {method!r}; known: {known}')
  if isinstance(num_steps, numbers.Integral) and num_steps < 1:
    raise ValueError(f'num_steps must be at least 1, got {num_steps}')
  if METHODS[method].draws_noise and key is None:
    raise ValueError(f'sampler {method!r} draws noise: pass a key')
  if gamma is not None and method != 'ancestral':
    raise ValueError(
      f'gamma is the variance of ancestral sampling; {method!r} has none'
    )


def _key_per_image(key, num_images):
  """Returns (B,) typed keys from one key, or from one key per image."""
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  return jax.random.split(key, num_images) if key.ndim == 0 else key


def _noise(keys, i, z):
  """Returns standard normal noise like z, from (B,) keys and the step."""

  def draw(key):
    return jax.random.normal(jax.random.fold_in(key, i), z.shape[1:])

  return jax.vmap(draw)(keys)
