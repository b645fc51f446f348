import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules, targets
from tests.core.test_schedules import cosine64

STEPS = [1, 2, 4, 64, 512, 4096]


def teacher(z, logsnr):
  """A smooth denoiser with values beyond [-1, 1]."""
  level = process.expand(logsnr, z)
  return 1.5 * jnp.sin(z + 0.1 * level) + 0.2 * jnp.cos(3 * z)


def case(num_steps, dtype):
  """Noisy images at the ends and in between, and the targets' arguments."""
  index = np.unique([0, 1, num_steps // 3, num_steps - 2, num_steps - 1])
  index = index[(index >= 0) & (index < num_steps)]
  z_t = np.random.RandomState(1).standard_normal((len(index), 4, 4, 1))
  return jnp.asarray(z_t, dtype), jnp.asarray(index, jnp.int32)


def quotient64(z_t, index, num_steps):
  """The paper's target (Algorithm 2, appendix G), in float64 throughout."""
  z_t, index = np.asarray(z_t, np.float64), np.asarray(index, np.float64)
  levels = [cosine64((index + u) / num_steps) for u in (1, 0.5, 0)]
  alpha_t, alpha_m, alpha_s = (
    ((1 + np.exp(-v)) ** -0.5)[:, None, None, None] for v in levels
  )
  sigma_t, sigma_m, sigma_s = (
    ((1 + np.exp(v)) ** -0.5)[:, None, None, None] for v in levels
  )
  with jax.enable_x64(True):
    x1 = np.asarray(teacher(jnp.asarray(z_t), jnp.asarray(levels[0])))
    z_m = alpha_m * x1 + sigma_m / sigma_t * (z_t - alpha_t * x1)
    x2 = np.asarray(teacher(jnp.asarray(z_m), jnp.asarray(levels[1])))
  z_s = alpha_s * x2 + sigma_s / sigma_m * (z_m - alpha_m * x2)
  ratio = sigma_s / sigma_t
  x_target = (z_s - ratio * z_t) / (alpha_s - ratio * alpha_t)
  # At i = 0 the original takes the teacher's second prediction: s is data.
  return np.where(index[:, None, None, None] == 0, x2, x_target)


@pytest.mark.parametrize('num_steps', STEPS)
def test_equals_the_paper_s_quotient_in_float64(num_steps):
  with jax.enable_x64(True):
    z_t, index = case(num_steps, jnp.float64)
    schedule = schedules.get_logsnr_schedule('cosine')
    got = targets.distillation_target(teacher, z_t, index, num_steps, schedule)
    np.testing.assert_allclose(
      got, quotient64(z_t, index, num_steps), rtol=0, atol=2e-10
    )


def test_keeps_float32_digits_where_the_quotient_loses_them():
  # The paper's quotient has an rms error of 4e-5 here (DESIGN, section 2b).
  rng = np.random.RandomState(2)
  z_t = jnp.asarray(rng.standard_normal((256, 4, 4, 1)), jnp.float32)
  index = jnp.asarray(rng.randint(0, 4096, 256), jnp.int32)
  schedule = schedules.get_logsnr_schedule('cosine')
  got = targets.distillation_target(teacher, z_t, index, 4096, schedule)
  error = np.asarray(got) - quotient64(z_t, index, 4096)
  assert np.sqrt(np.mean(error**2)) < 4e-6


@pytest.mark.parametrize('num_steps', [2, 16, 256])
def test_a_student_that_meets_it_lands_on_the_teacher_s_second_point(num_steps):
  z_t, index = case(num_steps, jnp.float32)
  schedule = schedules.get_logsnr_schedule('cosine')
  logsnr_t, logsnr_s = schedules.step_logsnr(schedule, index, num_steps)
  logsnr_m = schedule((index.astype(jnp.float32) + 0.5) / num_steps)
  x1 = teacher(z_t, logsnr_t)
  z_m = process.ddim_step(z_t, x1, logsnr_t, logsnr_m)
  z_s = process.ddim_step(z_m, teacher(z_m, logsnr_m), logsnr_m, logsnr_s)
  target = targets.distillation_target(teacher, z_t, index, num_steps, schedule)
  got = process.ddim_step(z_t, target, logsnr_t, logsnr_s)
  np.testing.assert_allclose(got, z_s, atol=1e-5)


def test_is_not_clipped_but_stays_between_the_teacher_s_predictions():
  z_t, index = case(64, jnp.float32)
  schedule = schedules.get_logsnr_schedule('cosine')
  seen = []

  def recording(z, logsnr):
    seen.append(teacher(z, logsnr))
    return seen[-1]

  target = targets.distillation_target(recording, z_t, index, 64, schedule)
  assert float(jnp.abs(target).max()) > 1
  low, high = jnp.minimum(*seen), jnp.maximum(*seen)
  assert np.all(low - 1e-6 <= target) and np.all(target <= high + 1e-6)


def test_the_last_step_s_target_is_the_second_prediction():
  schedule = schedules.get_logsnr_schedule('cosine')
  levels = []

  def recording(z, logsnr):
    levels.append(logsnr)
    return jnp.full_like(z, len(levels))

  z_t = jnp.zeros((1, 2, 2, 1))
  target = targets.distillation_target(
    recording, z_t, jnp.array([0]), jnp.int32(4), schedule
  )
  np.testing.assert_array_equal(target, 2)
  times = [float(schedule(jnp.float32(t))) for t in (1 / 4, 1 / 8)]
  np.testing.assert_allclose([v[0] for v in levels], times, rtol=1e-6)


def test_long_steps_do_not_overflow():
  # exp((logsnr_s - logsnr_t) / 2) = e^200 is not a float32.
  def schedule(t):
    return 400 - 800 * t

  z_t, index = jnp.ones((2, 2, 2, 1)), jnp.array([0, 1])
  target = targets.distillation_target(
    lambda z, logsnr: 0.5 * jnp.ones_like(z), z_t, index, 2, schedule
  )
  np.testing.assert_allclose(target, 0.5)


def test_step_times_are_integers_over_the_step_count():
  index = jnp.arange(4)
  logsnr_t, logsnr_s = schedules.step_logsnr(lambda t: -t, index, 4)
  np.testing.assert_array_equal(-logsnr_t, [0.25, 0.5, 0.75, 1])
  np.testing.assert_array_equal(logsnr_s, [np.inf, -0.25, -0.5, -0.75])


def some(seed, shape=(5, 4, 4, 1)):
  return jnp.asarray(np.random.RandomState(seed).standard_normal(shape))


def test_two_unequal_steps_land_where_one_step_of_the_target_lands():
  # m is anywhere between t and u, and the two functions differ.
  with jax.enable_x64(True):
    z_t = some(1)
    t, m, u = jnp.array([[-9.0, -3, -1, 0, 4]]) + jnp.array([[0], [0.5], [6]])
    x1 = teacher(z_t, t)
    z_m = process.ddim_step(z_t, x1, t, m)
    x2 = jnp.cos(z_m)
    z_u = process.ddim_step(z_m, x2, m, u)
    x = targets.two_step_target(
      teacher, lambda z, logsnr: jnp.cos(z), z_t, t, m, u
    )
    np.testing.assert_allclose(
      process.ddim_step(z_t, x, t, u), z_u, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
  ('m', 'u', 'want'), [(2.0, 2.0, 1), (np.inf, np.inf, 1), (2.0, np.inf, 2)]
)
def test_the_limits_of_the_two_step_target(m, u, want):
  # m = u is one step of the first function, whatever the second one returns.
  z_t, level = jnp.ones((3, 2, 2, 1)), jnp.full((3,), -1.0)
  target = targets.two_step_target(
    lambda z, logsnr: jnp.ones_like(z),
    lambda z, logsnr: jnp.full_like(z, jnp.nan if want == 1 else 2.0),
    z_t,
    level,
    jnp.full((3,), m),
    jnp.full((3,), u),
  )
  np.testing.assert_array_equal(target, want)


def test_the_target_of_several_steps_lands_where_they_land():
  schedule = schedules.get_logsnr_schedule('cosine')
  with jax.enable_x64(True):
    z_t, index, num_steps = some(1), jnp.array([0, 1, 2, 3, 3]), 4
    x = targets.distillation_target(
      teacher, z_t, index, num_steps, schedule, factor=5
    )
    logsnr_t, logsnr_u = schedules.step_logsnr(schedule, index, num_steps)
    z = z_t
    for k in range(5):
      level, end = (
        schedules.logsnr_at(
          schedule, schedules.fraction(5 * (index + 1) - k - more, 20)
        )
        for more in (0, 1)
      )
      z = process.ddim_step(z, teacher(z, level), level, end)
    got = process.ddim_step(z_t, x, logsnr_t, logsnr_u)
    np.testing.assert_allclose(got, z, rtol=0, atol=1e-12)


def test_adjusted_ddim_has_the_noise_of_its_formula():
  with jax.enable_x64(True):
    z_t, x, x_hat = some(1), some(2), some(3)
    t = jnp.array([-9.0, -3, -1, 0, 4])
    s = t + jnp.array([0.1, 1, 2, 5, jnp.inf])
    alpha_t, sigma_t = process.alpha_sigma(process.expand(t, z_t))
    alpha_s, sigma_s = process.alpha_sigma(process.expand(s, z_t))
    eps = (z_t - alpha_t * x_hat) / sigma_t
    squared = [
      jnp.sum(a**2, axis=(1, 2, 3), keepdims=True) for a in (x - x_hat, eps)
    ]
    gain = alpha_s - alpha_t * sigma_s / sigma_t
    more = gain**2 * squared[0] / squared[1]
    want = alpha_s * x_hat + jnp.sqrt(sigma_s**2 + more) * eps
    # At data, where there is no noise, it is the prediction.
    want = want.at[-1].set(x_hat[-1])
    got = process.ddim_step(z_t, targets.addim_x(x_hat, z_t, x, t, s), t, s)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_error_of_a_step_is_relative_to_its_length():
  z_t, x = some(1), some(2)
  t = jnp.array([-9.0, -3, -1, 0, 4])
  for u in (t + 1, jnp.full(5, jnp.inf)):
    z_u = process.ddim_step(z_t, x, t, u)
    # Another prediction, whose step is longer by a tenth.
    longer = process.ddim_step(z_t, 0 * x, t, u) - z_t
    scale = (z_u - z_t - longer) / x
    x_hat = x + 0.1 * (z_u - z_t) / scale
    error = targets.step_error(x_hat, x, z_t, t, u)
    np.testing.assert_allclose(error, 0.1, rtol=2e-3)
