import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import schedules


def cosine64(t, low=-20.0, high=20.0):
  """-2 log tan(phi) in float64, mirrored where tan would lose digits."""
  t = np.asarray(t, np.float64)
  at_data, at_noise = np.arctan(np.exp(-high / 2)), np.arctan(np.exp(low / 2))
  slope = np.pi / 2 - at_data - at_noise
  return np.where(
    t < 0.5,
    -2 * np.log(np.tan(slope * t + at_data)),
    2 * np.log(np.tan(slope * (1 - t) + at_noise)),
  )


@pytest.mark.parametrize('name', list(schedules.SCHEDULES))
def test_runs_from_max_at_data_to_min_at_noise(name):
  schedule = schedules.get_logsnr_schedule(name, logsnr_min=-9, logsnr_max=13)
  np.testing.assert_allclose(
    schedule(jnp.array([0.0, 1.0])), [13.0, -9.0], rtol=1e-6
  )
  assert np.all(np.diff(schedule(jnp.linspace(0, 1, 1001))) < 0)


def test_cosine_keeps_float32_digits_at_both_ends():
  u = np.concatenate(
    [np.arange(33), np.arange(0, 8193, 64), 8192 - np.arange(9)]
  )
  t = (u / 8192).astype(np.float32)  # exact in float32
  got = schedules.get_logsnr_schedule('cosine')(jnp.asarray(t))
  np.testing.assert_allclose(got, cosine64(t), rtol=1e-6, atol=2e-6)


def test_cosine_is_the_paper_s_in_the_middle():
  # alpha_t = cos(pi t / 2) to the clipping's 5e-5 (paper, section 4).
  t = jnp.linspace(0.1, 0.9, 9)
  logsnr = schedules.get_logsnr_schedule('cosine')(t)
  alpha = np.sqrt(1 / (1 + np.exp(-np.asarray(logsnr, np.float64))))
  np.testing.assert_allclose(alpha, np.cos(np.pi * t / 2), atol=5e-5)


def test_cosine_is_antisymmetric_about_the_middle():
  t = jnp.asarray(np.arange(0, 129) / 128, jnp.float32)
  schedule = schedules.get_logsnr_schedule('cosine')
  np.testing.assert_allclose(schedule(t), -schedule(1 - t), atol=2e-6)


def test_cosine_has_its_derivative_everywhere():
  # -2 phi' / (sin phi cos phi), phi linear in t; in the middle, where the
  # formula changes branch, too.
  schedule = schedules.get_logsnr_schedule('cosine')
  t = np.array([0, 1e-3, 0.3, 0.5, 0.7, 1 - 1e-3, 1], np.float32)
  _, got = jax.jvp(schedule, (jnp.asarray(t),), (jnp.ones(len(t)),))
  at_data, at_noise = np.arctan(np.exp([-10.0, 10.0]))
  slope = at_noise - at_data
  want = -4 * slope / np.sin(2 * (slope * np.float64(t) + at_data))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(ValueError, match='cosine, uniform'):
    schedules.get_logsnr_schedule('cosin')


@pytest.mark.parametrize(
  ('low', 'high'),
  [(3.0, -3.0), (1500.0, 2000.0), (-20.0, float('inf')), (-1e3, 20.0)],
)
def test_ends_in_the_wrong_order_or_without_float32_are_refused(low, high):
  with pytest.raises(ValueError, match='both from -80 to 80'):
    schedules.get_logsnr_schedule('cosine', logsnr_min=low, logsnr_max=high)


@pytest.mark.parametrize('name', list(schedules.SCHEDULES))
def test_the_widest_range_has_float32_ends(name):
  schedule = schedules.get_logsnr_schedule(name, logsnr_min=-80, logsnr_max=80)
  ends = schedule(jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(ends, [80, -80], rtol=1e-6)
  assert np.all(jax.nn.sigmoid(-ends) >= np.finfo(np.float32).tiny)
