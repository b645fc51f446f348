import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process

LEVELS = [
  (-19.5, -17.0),
  (-20.0, 20.0),
  (-3.0, 1.0),
  (0.0, 0.001),
  (15.0, 19.0),
]


def alpha_sigma64(logsnr):
  logsnr = np.float64(logsnr)
  return (1 + np.exp(-logsnr)) ** -0.5, (1 + np.exp(logsnr)) ** -0.5


def images(seed, shape=(2, 3, 3, 1)):
  return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def level(logsnr):
  return jnp.full((2,), logsnr, jnp.float32)


def test_variance_is_preserved_with_digits_at_both_ends():
  logsnr = jnp.array([-20.0, -1.0, 0.0, 5.0, 20.0])
  alpha, sigma = process.alpha_sigma(logsnr)
  want = np.array([alpha_sigma64(v) for v in logsnr]).T
  np.testing.assert_allclose([alpha, sigma], want, rtol=1e-6)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)


def test_data_and_noise_are_the_ends():
  alpha, sigma = process.alpha_sigma(jnp.array([jnp.inf, -jnp.inf]))
  np.testing.assert_array_equal([alpha, sigma], [[1, 0], [0, 1]])


def test_diffuse_has_the_moments_of_equation_2():
  x = np.full((2, 200, 200, 1), 0.7, np.float32)
  z = process.diffuse(x, jnp.array([-1.0, 2.0]), images(0, x.shape))
  for z_i, logsnr in zip(np.asarray(z), (-1.0, 2.0), strict=True):
    alpha, sigma = alpha_sigma64(logsnr)
    assert abs(z_i.mean() - alpha * 0.7) < 4 * sigma / 200
    assert abs(z_i.std() - sigma) < 4 * sigma / 280


@pytest.mark.parametrize(('logsnr_t', 'logsnr_s'), LEVELS)
def test_ddim_step_is_the_paper_s_equation_8(logsnr_t, logsnr_s):
  z, x = images(1), images(2)
  alpha_t, sigma_t = alpha_sigma64(logsnr_t)
  alpha_s, sigma_s = alpha_sigma64(logsnr_s)
  eps = (z - alpha_t * x.astype(np.float64)) / sigma_t
  got = process.ddim_step(z, x, level(logsnr_t), level(logsnr_s))
  np.testing.assert_allclose(got, alpha_s * x + sigma_s * eps, atol=2e-6)


def test_ddim_step_is_a_rotation():
  # z_{phi - d} = cos(d) z - sin(d) v (paper, appendix D).
  phi, d = 1.1, 0.4
  x, eps = images(1), images(2)
  z = np.cos(phi) * x + np.sin(phi) * eps
  v = np.cos(phi) * eps - np.sin(phi) * x
  got = process.ddim_step(
    jnp.asarray(z, jnp.float32),
    x,
    level(-2 * np.log(np.tan(phi))),
    level(-2 * np.log(np.tan(phi - d))),
  )
  np.testing.assert_allclose(got, np.cos(d) * z - np.sin(d) * v, atol=2e-6)


@pytest.mark.parametrize('logsnr_t', [-20.0, 0.0, 20.0])
def test_a_step_to_data_returns_x_hat_exactly(logsnr_t):
  z, x = images(1), images(2)
  got = process.ddim_step(z, x, level(logsnr_t), level(jnp.inf))
  np.testing.assert_array_equal(got, x)
  mean, std = process.posterior(z, x, level(logsnr_t), level(jnp.inf), 0.0)
  np.testing.assert_array_equal(mean, x)
  np.testing.assert_array_equal(std, 0)


@pytest.mark.parametrize(('logsnr_t', 'logsnr_s'), LEVELS)
def test_posterior_is_bayes_rule(logsnr_t, logsnr_s):
  # Conditioning the joint Gaussian of (z_s, z_t) given x on z_t.
  z, x = images(1), images(2)
  alpha_t, sigma_t = alpha_sigma64(logsnr_t)
  alpha_s, sigma_s = alpha_sigma64(logsnr_s)
  gain = (alpha_t / alpha_s) * sigma_s**2 / sigma_t**2
  want = alpha_s * x + gain * (z - alpha_t * x.astype(np.float64))
  variance = sigma_s**2 * -np.expm1(np.float64(logsnr_t) - logsnr_s)
  mean, std = process.posterior(z, x, level(logsnr_t), level(logsnr_s), 0.0)
  np.testing.assert_allclose(mean, want, atol=2e-6)
  np.testing.assert_allclose(std[0, 0, 0, 0] ** 2, variance, rtol=1e-3)
  # The same variance, from the joint's Schur complement.
  schur = sigma_s**2 - (alpha_t / alpha_s) ** 2 * sigma_s**4 / sigma_t**2
  np.testing.assert_allclose(variance, schur, rtol=1e-6, atol=1e-9)


def test_gamma_interpolates_the_log_variance():
  z, x, t, s = images(1), images(2), level(-2.0), level(1.0)
  stds = [
    float(process.posterior(z, x, t, s, g)[1][0, 0, 0, 0]) for g in (0, 1, 0.25)
  ]
  forward = 1 - np.exp(-2.0 - 1.0)  # sigma_{t|s}^2 / sigma_t^2, Eq. (3)
  np.testing.assert_allclose(
    stds[0], forward**0.5 * alpha_sigma64(1)[1], rtol=1e-6
  )
  np.testing.assert_allclose(
    stds[1], forward**0.5 * alpha_sigma64(-2)[1], rtol=1e-6
  )
  np.testing.assert_allclose(
    stds[2], stds[0] ** 0.75 * stds[1] ** 0.25, rtol=1e-6
  )


def test_posterior_draws_keep_the_marginal():
  # If z_t ~ q(z_t|x), a draw of q(z_s|z_t, x) must be distributed as q(z_s|x).
  rng = np.random.RandomState(0)
  x = np.full((1, 400, 400, 1), -0.4, np.float32)
  eps, noise = rng.standard_normal((2, *x.shape)).astype(np.float32)
  t, s = jnp.array([-1.5]), jnp.array([0.5])
  mean, std = process.posterior(process.diffuse(x, t, eps), x, t, s, 0.0)
  z_s = np.asarray(mean + std * noise)
  alpha, sigma = alpha_sigma64(0.5)
  assert abs(z_s.mean() - alpha * -0.4) < 4 * sigma / 400
  assert abs(z_s.std() - sigma) < 4 * sigma / 560


@pytest.mark.parametrize(('logsnr_t', 'logsnr_s'), LEVELS)
def test_diffusing_further_composes(logsnr_t, logsnr_s):
  # Eq. (2) to s, then Eq. (3) to t, is Eq. (2) to t: mean and variance.
  x, zero, one = images(1), np.zeros((2, 3, 3, 1)), np.ones((2, 3, 3, 1))
  t, s = level(logsnr_t), level(logsnr_s)
  alpha, sigma = alpha_sigma64(logsnr_t)
  mean = process.diffuse_from(process.diffuse(x, s, zero), s, t, zero)
  np.testing.assert_allclose(mean, alpha * x, rtol=2e-6)
  of_first = process.diffuse_from(process.diffuse(0 * x, s, one), s, t, zero)
  of_second = process.diffuse_from(0 * x, s, t, one)
  variance = np.square(of_first, dtype=np.float64) + np.square(of_second)
  np.testing.assert_allclose(variance, sigma**2, rtol=2e-6)


def test_diffusing_from_data_is_diffusing():
  x, eps, t = images(1), images(2), level(-1.0)
  got = process.diffuse_from(x, level(jnp.inf), t, eps)
  np.testing.assert_allclose(got, process.diffuse(x, t, eps), rtol=1e-6)


def test_diffusing_nowhere_changes_nothing():
  z, eps, t = images(1), images(2), level(1.5)
  np.testing.assert_array_equal(process.diffuse_from(z, t, t, eps), z)


@pytest.mark.parametrize('phi', [0.3, 1.1, 1.5])
def test_the_probability_flow_is_v_in_another_variable(phi):
  # dz/dphi = v (paper, appendix D), and dlogsnr/dphi = -2 / (sin phi cos phi).
  x, eps = images(1), images(2)
  z = np.cos(phi) * x + np.sin(phi) * eps
  v = np.cos(phi) * eps - np.sin(phi) * x
  logsnr = level(-2 * np.log(np.tan(phi)))
  got = process.probability_flow(jnp.asarray(z, jnp.float32), x, logsnr)
  want = -v * np.sin(phi) * np.cos(phi) / 2
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_probability_flow_is_what_short_ddim_steps_follow():
  # Appendix B: DDIM integrates it; a difference quotient in float64.
  z, x = np.float64(images(1)), np.float64(images(2))
  with jax.enable_x64(True):
    t, h = jnp.full(2, -1.3), 1e-6
    ahead, back = (process.ddim_step(z, x, t, t + d) for d in (h, -h))
    quotient = np.asarray((ahead - back) / (2 * h))
    got = process.probability_flow(z, x, t)
  np.testing.assert_allclose(got, quotient, atol=1e-8)
