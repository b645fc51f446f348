"""Gamma noise against the closed forms of the Gamma distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusion_distillation.core import noise

THETA_0 = 0.001
# Shapes on both sides of 1e4, where the normal distribution begins.
SHAPES = [5e14, 1e6, 1.1e4, 9e3, 300, 3, 2, 1, 0.3]


def logsnr_of(shapes):
  return jnp.float32(-np.log(shapes) - 2 * np.log(THETA_0))


@pytest.fixture(scope='module')
def draws():
  """Noise of SHAPES, and of the log-SNRs -80 and 80."""
  logsnr = jnp.append(logsnr_of(SHAPES), jnp.array([-80.0, 80.0]))[:, None]
  key, shape = jax.random.key(0), (len(SHAPES) + 2, 20_000)
  draw = jax.jit(noise.gamma_noise, static_argnums=(1, 3))
  return np.asarray(draw(key, shape, logsnr, THETA_0), np.float64)


def test_gamma_noise_has_the_moments_of_its_distribution(draws):
  for k, eps in zip(SHAPES, draws, strict=False):
    # Cumulants of the standardized distribution: (r - 1)! k^(1 - r/2).
    third, fourth, sixth = 2 / k**0.5, 6 / k, 120 / k**2
    moments = {
      1: (0, 1),
      2: (1, 2 + fourth),
      3: (third, sixth + 15 * fourth + 9 * third**2 + 15),
    }
    for order, (mean, variance) in moments.items():
      error = abs((eps**order).mean() - mean)
      # A normal distribution takes the place of a skewness of at most 0.02.
      bias = 0.02 if order == 3 and k > 1e4 else 0
      assert error < 4 * np.sqrt(variance / len(eps)) + bias, (k, order)
    assert k > 1e4 or eps.min() >= -np.sqrt(k) * (1 + 1e-6)


def test_gamma_noise_is_finite_at_every_noise_level(draws):
  assert np.isfinite(draws).all()


def test_independent_noise_of_one_scale_adds_up(draws):
  k = np.array([[3.0], [2.0]])
  eps = draws[[SHAPES.index(3), SHAPES.index(2)]]
  total = (k + np.sqrt(k) * eps).sum(0)[:10_000]
  assert stats.kstest(total, stats.gamma(5).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
  ('k', 'error'),
  [(1e14, 1e-5), (1e4, 0.002), (100, 0.002), (10, 0.02), (1, 0.14)],
)
def test_normal_noise_becomes_gamma_noise(k, error):
  n = np.linspace(-3, 3, 201)
  want = n
  if k < 1e14:
    want = (stats.gamma.ppf(stats.norm.cdf(n), k) - k) / np.sqrt(k)
  got = noise.normal_to_gamma(jnp.float32(n), logsnr_of(k), THETA_0)
  np.testing.assert_allclose(got, want, atol=error)


def test_little_gamma_noise_is_not_negative():
  # G = 0 is the least, eps = -sqrt(k).
  n = jnp.linspace(-3, 3, 7)
  got = noise.normal_to_gamma(n, jnp.float32(80), THETA_0)
  np.testing.assert_allclose(got, -np.exp(-40) / THETA_0, rtol=1e-5)
