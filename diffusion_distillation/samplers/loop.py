"""The sampling loop, shared by all methods."""

import functools
import numbers

import chex
import jax
import jax.numpy as jnp

from diffusion_distillation.core.targets import step_logsnr
from diffusion_distillation.samplers.ancestral import ancestral
from diffusion_distillation.samplers.ddim import ddim

# name -> step(denoise, z_t, logsnr_t, logsnr_s, noise) -> z_s
DETERMINISTIC = {'ddim': ddim}
STOCHASTIC = {'ancestral': ancestral}
METHODS = DETERMINISTIC | STOCHASTIC


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

  The loop is one compiled function, and the number of steps may be traced: one
  compilation then serves every step count.

  Args:
    denoise: (z, logsnr) -> x_hat.
    z_1: (B, H, W, C) float32 standard normal noise.
    schedule: t -> logsnr.
    num_steps: N >= 1, an int or a scalar integer array; the times are N/N, ...,
      1/N, and the last step goes to data.
    method: 'ddim' or 'ancestral'.
    clip: whether x_hat is clipped to [-1, 1] in every step.
    key: for 'ancestral', a random key, or (B,) keys, one for each image.
    gamma: for 'ancestral', in [0, 1]: small (0) to large (1) variance, which is
      the default.

  Raises:
    ValueError: unknown method, num_steps < 1, or key or gamma do not fit it.
  """
  if method not in METHODS:
    known = ', '.join(METHODS)
    raise ValueError(f'unknown sampler {method!r}; known: {known}')
  if isinstance(num_steps, numbers.Integral) and num_steps < 1:
    raise ValueError(f'num_steps must be at least 1, got {num_steps}')
  stochastic = method in STOCHASTIC
  if stochastic and key is None:
    raise ValueError(f'sampler {method!r} draws noise: pass a key')
  if not stochastic and gamma is not None:
    raise ValueError(f'sampler {method!r} draws no noise: gamma has no meaning')

  chex.assert_type(z_1, jnp.float32)
  step = METHODS[method]
  if stochastic:
    step = functools.partial(step, gamma=1.0 if gamma is None else gamma)
    key = _key_per_image(key, z_1.shape[0])

  def clipped(z, logsnr):
    x_hat = denoise(z, logsnr)
    chex.assert_equal_shape([z, x_hat])
    return jnp.clip(x_hat, -1, 1) if clip else x_hat

  def body(i, z):
    index = jnp.full((z.shape[0],), num_steps - 1 - i, jnp.int32)  # (B,)
    logsnr_t, logsnr_s = step_logsnr(schedule, index, num_steps)
    noise = _noise(key, i, z) if stochastic else None
    return step(clipped, z, logsnr_t, logsnr_s, noise)

  return jax.lax.fori_loop(0, num_steps, body, z_1)


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
