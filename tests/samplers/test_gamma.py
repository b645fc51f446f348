"""Gamma-DDIM: its coefficients, and what its constraint costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules
from diffusion_distillation.samplers import Step, make_sampler, sample

SCHEDULE = schedules.get_logsnr_schedule('cosine')
C = 0.5  # the std of Gaussian data
# Times t and s of the first step of N, the one that ends at 1/2, and the last
# one that draws noise.
STEPS = [(t / n, (t - 1) / n) for n in (4, 16, 64) for t in (n, n // 2 + 1, 2)]
# From the table of docs/samplers.md: the variance after a step at sigma = 0,
# divided by its right value.
RATIOS = [4.4e7, 2.0, 1.57, 3.9e6, 0.509, 1.024, 2.8e5, 0.379, 0.9997]


def alpha(times):
  """Cosine of the schedule's angle, in float64."""
  low, high = np.arctan(np.exp([-10, 10]))
  return np.cos(low + (high - low) * np.asarray(times))


A, B = alpha([s for _, s in STEPS]), alpha([t for t, _ in STEPS])


def advance(z_t, x_hat, noise, **options):
  """Makes all STEPS, one for each image."""
  times = jnp.float32([time for t, s in STEPS for time in (s, t)])
  index = 2 * jnp.arange(len(STEPS))
  like = jnp.zeros((len(STEPS), *jnp.shape(noise)[1:]))
  z_t, x_hat, noise = (
    like + jnp.float32(value).reshape(-1, *(1,) * (like.ndim - 1))
    if jnp.ndim(value) < 2
    else jnp.float32(value)
    for value in (z_t, x_hat, noise)
  )
  step = Step(None, SCHEDULE, lambda i, _: times[i], index, 1, noise)
  z_s, _ = make_sampler('gamma_ddim', **options).step(z_t, x_hat, step, ())
  return np.asarray(z_s, np.float64)


@pytest.mark.parametrize('sigma', [0.0, 0.5, -0.2, None])
def test_the_coefficients_are_those_of_the_equation(sigma):
  nothing = jnp.zeros((len(STEPS), 1))
  # With a small theta_0 the noise is nearly normal, so that 0 gives no noise.
  options = {'sigma': sigma, 'theta_0': 1e-8}
  c = advance(1.0, 0.0, nothing, **options)[:, 0]
  d = advance(0.0, 1.0, nothing, **options)[:, 0]
  np.testing.assert_allclose(c * B + d, A, rtol=1e-5)
  if sigma is None:
    # The variance is c^2 sigma_t^2 + (1 - r c)^2 sigma_s^2: with this c, it is
    # sigma_s^2. From pure noise, c is 1e-4, of which 1 - tanh leaves no digit.
    r = B * (1 + A) / A
    want = 2 * r * (1 - A**2) / (1 - B**2 + r**2 * (1 - A**2))
    np.testing.assert_allclose(c, want, rtol=1e-4)
  else:
    np.testing.assert_allclose(c, (A - sigma * B) / (B * (1 + A)), rtol=1e-4)
    np.testing.assert_allclose(d, (A**2 + sigma * B) / (1 + A), rtol=1e-5)


@pytest.mark.parametrize('sigma', [0.0, 0.7, None])
def test_a_step_from_the_true_x_has_the_stated_mean_and_variance(sigma):
  rng, theta_0, x = np.random.RandomState(0), 0.01, 0.3
  shape = (len(STEPS), 30_000)
  column = (slice(None), None)
  k = (1 - B[column] ** 2) / B[column] ** 2 / theta_0**2
  theta_t = B[column] * theta_0
  z_t = B[column] * x + (rng.gamma(k, theta_t, shape) - k * theta_t)
  # z_t is rounded to float32: this 1e-7 of it is far below the noise z_t - b x.
  normal = rng.standard_normal(shape)
  z_s = advance(z_t, x, normal, sigma=sigma, theta_0=theta_0)
  y = 0 if sigma is None else sigma * B / A
  # The general ratio of the docstring, with the table's figures for q.
  ratio = (1 - y) ** 2 * np.array(RATIOS) + y**2
  if sigma is None:
    ratio = np.ones(len(STEPS))
  std = np.sqrt(ratio * (1 - A**2))
  mean_error = (z_s.mean(1) - A * x) / std
  assert np.abs(mean_error).max() < 5 / np.sqrt(shape[1])
  np.testing.assert_allclose(z_s.var(1) / std**2, 1, atol=0.05)


def test_all_noise_is_drawn_again_where_that_keeps_the_variance():
  # sigma = a / b, one number for each step.
  shape = (len(STEPS), 10)
  normal = np.random.RandomState(0).standard_normal(shape)
  sigma = jnp.float32(A / B)[:, None]
  z_s = advance(7.0, 0.3, normal, sigma=sigma, theta_0=1e-8)
  want = 0.3 * A[:, None] + np.sqrt(1 - A[:, None] ** 2) * normal
  np.testing.assert_allclose(z_s, want, atol=2e-3)


def gaussian_denoise(z, logsnr):
  a, s = process.alpha_sigma(process.expand(logsnr, z))
  return a * C**2 * z / (a**2 * C**2 + s**2)


def test_the_samples_vary_as_the_documentation_says():
  z_1 = jax.random.normal(jax.random.key(1), (1, 128, 128, 1))

  def std(num_steps, **options):
    x = sample(
      gaussian_denoise,
      z_1,
      schedule=SCHEDULE,
      num_steps=num_steps,
      sampler='gamma_ddim',
      clip=False,
      key=jax.random.key(0),
      **options,
    )
    return jnp.std(x)

  default, without = jax.jit(std), jax.jit(lambda n: std(n, sigma=0.0))
  # The numbers come from a recursion of the variance in float64, which does not
  # use our code.
  for n, of_default, of_zero in (
    (4, 0.332, 3507),
    (16, 0.448, 261),
    (64, 0.469, 0.0026),
  ):
    np.testing.assert_allclose(default(n), of_default, rtol=0.03)
    np.testing.assert_allclose(without(n), of_zero, rtol=0.03)


def test_options_are_checked_and_sigma_0_draws_no_noise():
  assert not make_sampler('gamma_ddim:sigma=0').draws_noise
  assert make_sampler('gamma_ddim:theta_0=0.01').draws_noise
  with pytest.raises(ValueError, match='positive and finite, got 0'):
    make_sampler('gamma_ddim:theta_0=0')
