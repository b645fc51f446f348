"""The sampling loop, which all samplers share."""

import numbers

import chex
import jax
import jax.numpy as jnp

from diffusion_distillation.samplers.grids import check_num_steps
from diffusion_distillation.samplers.sampler import Step
from diffusion_distillation.samplers.table import make_both


def sample(
  denoise,
  z_1,
  *,
  schedule,
  num_steps,
  sampler='ddim',
  grid=None,
  clip=True,
  key=None,
  noise=None,
  **options,
):
  """Returns images, (B, H, W, C) float32, in [-1, 1] if `clip` is True.

  Each step predicts x_hat and lets the sampler advance to the next noise level.
  A step that ends at data returns x_hat, as DDIM and every posterior do there;
  an integrator in log-SNR would have an infinite distance to go. In one step,
  all samplers are therefore DDIM.

  The loop is one compiled function and the number of steps may be traced: one
  compilation then serves every step count.

  Args:
    denoise: (z, logsnr) -> x_hat.
    z_1: (B, H, W, C) float32 standard normal noise, or noisy images at the
      first time of the grid if that is below t = 1.
    schedule: t -> logsnr.
    num_steps: N >= 1, an int or a scalar integer array.
    sampler: spelling of a sampler, such as 'ancestral:gamma=0.3' (the names are
      in SAMPLERS), or a Sampler.
    grid: spelling of a grid in GRIDS, a function time(index, num_steps), or
      (N + 1,) falling times. If the last time is not 0, noisy images at that
      time are returned. None takes the grid of the sampler's spelling, such as
      'ddim@karras', or 'uniform'.
    clip: whether every x_hat is clipped to [-1, 1].
    key: random key, or (B,) keys, one for each image, for a sampler that draws
      noise.
    noise: (N, B, H, W, C) standard normal, instead of a key, to compare with
      other programs. A sampler that draws several times in a step needs
      (N, draws, B, H, W, C), in the order of use.
    **options: options of the sampler, such as gamma=0.3, and of the grid.

  Raises:
    ValueError: the sampler, an option or the grid is unknown, num_steps < 1, or
      a sampler that draws noise got neither key nor noise.
  """
  check_num_steps(num_steps, grid)
  sampler, time = make_both(sampler, grid, schedule, options)
  chex.assert_type(z_1, float)
  if sampler.draws_noise and noise is None:
    if key is None:
      raise ValueError('this sampler draws noise: pass a key (or noise)')
    key = _key_per_image(key, z_1.shape[0])
  if noise is not None and isinstance(num_steps, numbers.Integral):
    chex.assert_axis_dimension_gteq(noise, 0, num_steps)

  def clipped(z, logsnr):
    x_hat = denoise(z, logsnr)
    chex.assert_trees_all_equal_shapes_and_dtypes(z, x_hat)
    return jnp.clip(x_hat, -1, 1) if clip else x_hat

  def noise_of(i):
    if not sampler.draws_noise:
      return None
    draws = sampler.draws_per_step
    if noise is None:
      return _draw(key, i, z_1, draws)
    given = jnp.asarray(noise)[i]
    several = () if draws == 1 else (draws,)
    chex.assert_shape(given, (*several, *z_1.shape))
    return given

  def body(i, carry):
    z_t, memory = carry
    index = jnp.full((z_t.shape[0],), num_steps - 1 - i, jnp.int32)  # (B,)
    step = Step(clipped, schedule, time, index, num_steps, noise_of(i))
    x_hat = clipped(z_t, step.logsnr_t)
    return jax.lax.cond(
      step.s[0] == 0,
      lambda: (x_hat, memory),
      lambda: sampler.step(z_t, x_hat, step, memory),
    )

  start = z_1, sampler.init(z_1)
  images, _ = jax.lax.fori_loop(0, num_steps, body, start)
  return images


def _key_per_image(key, num_images):
  """Returns (B,) typed keys of one key, or of one key per image."""
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  return jax.random.split(key, num_images) if key.ndim == 0 else key


def _draw(keys, i, z, draws):
  """Returns standard normal noise like z, from (B,) keys and the step.

  If there are several draws, they are on a further axis, which is the first.
  """
  shape, axis = z.shape[1:], 0
  if draws > 1:
    shape, axis = (draws, *shape), 1

  def draw(key):
    return jax.random.normal(jax.random.fold_in(key, i), shape)

  return jax.vmap(draw, out_axes=axis)(keys)
