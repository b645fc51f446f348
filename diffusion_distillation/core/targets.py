"""Distillation targets: the x at which one step lands where two steps do."""

import chex
import jax
import jax.numpy as jnp

from diffusion_distillation.core import process, schedules


def two_step_target(first, second, z_t, logsnr_t, logsnr_m, logsnr_u):
  """Returns the x whose single DDIM step t -> u lands on two steps t -> m -> u.

  With x1 = first(z_t), z_m one DDIM step further and x2 = second(z_m), it is

    x_target = x2 + w (x1 - x2),
    w = expm1((logsnr_m - logsnr_t) / 2) / expm1((logsnr_u - logsnr_t) / 2),

  which equals (z_u - (sigma_u / sigma_t) z_t) / (alpha_u - (sigma_u / sigma_t)
  alpha_t) (Salimans & Ho 2022, appendix G) without that quotient of small
  differences: at 4,096 steps its float32 error is 30 times smaller.

  Methods differ in the arguments alone. Progressive distillation takes the
  teacher twice; TRACT and consistency distillation take the teacher and then
  the student without gradient; consistency training takes the data itself,
  `lambda z, logsnr: x`, and then the student.

  Args:
    first: (z, logsnr) -> x_hat, evaluated at t; its prediction is not clipped.
    second: (z, logsnr) -> x_hat, evaluated at m.
    z_t: (B, ...) float32 noisy images at t.
    logsnr_t: (B,) float32 noise level of z_t.
    logsnr_m: (B,) noise level between, logsnr_t < logsnr_m <= logsnr_u.
    logsnr_u: (B,) noise level where the steps end; +inf is data.

  Returns:
    (B, ...) float32, between the two predictions: x1 where m = u, and x2 where
    u is data and m is not.
  """
  x1 = first(z_t, logsnr_t)
  z_m = process.ddim_step(z_t, x1, logsnr_t, logsnr_m)
  x2 = second(z_m, logsnr_m)
  chex.assert_equal_shape([z_t, x1, x2])

  # expm1(a) / expm1(b) with the growing exponentials factored out, so that long
  # steps do not overflow; and no inf - inf where both m and u are data.
  a, b = (logsnr_m - logsnr_t) / 2, (logsnr_u - logsnr_t) / 2
  is_one_step = logsnr_m == logsnr_u
  growth = jnp.exp(jnp.where(is_one_step, 0, a - b))
  w = growth * jnp.expm1(-a) / jnp.expm1(-b)  # (B,), 1 where m = u
  mean = x2 + process.expand(w, z_t) * (x1 - x2)
  x_target = jnp.where(process.expand(is_one_step, z_t), x1, mean)
  chex.assert_trees_all_equal_shapes_and_dtypes(x_target, z_t)
  return x_target


def heun_x(denoise, z_t, logsnr_t, logsnr_s):
  """Returns the x whose DDIM step t -> s is a step of Heun's method in sigma.

  This is the trapezoidal rule for the ODE of y = z / alpha in the noise level
  sigma / alpha, as consistency distillation and EDM use it. At s = data it is
  the prediction at t.

  Args:
    denoise: (z, logsnr) -> x_hat.
    z_t: (B, ...) float32 noisy images at t.
    logsnr_t: (B,) noise level of z_t.
    logsnr_s: (B,) noise level at which the step ends, above logsnr_t.
  """
  x_1 = denoise(z_t, logsnr_t)
  is_data = logsnr_s == jnp.inf
  level = jnp.where(is_data, logsnr_t, logsnr_s)
  z_s = process.ddim_step(z_t, x_1, logsnr_t, level)
  x_2 = denoise(z_s, level)
  # With y = z / alpha and k = sigma / alpha, the mean of both slopes is
  # (y_t - x) / k_t for x = (x_1 + y_t - (k_t / k_s) (y_s - x_2)) / 2, in which
  # y_t - (k_t / k_s) y_s = (1 - k_t / k_s) x_1.
  ratio = process.expand(jnp.exp((level - logsnr_t) / 2), z_t)  # k_t / k_s
  heun = x_1 + ratio * (x_2 - x_1) / 2
  return jnp.where(process.expand(is_data, z_t), x_1, heun)


def addim_x(x_hat, z_t, x, logsnr_t, logsnr_s):
  """Returns the x whose DDIM step t -> s is a step of adjusted DDIM (aDDIM).

  DDIM neglects that x is uncertain given z_t, and loses variance. aDDIM makes
  up for it by more noise (Heek et al. 2024, arXiv 2403.06807, section 4), with
  V = (alpha_s - alpha_t sigma_s / sigma_t)^2 |x - x_hat|^2 / D and

    z_s = alpha_s x_hat + sqrt(sigma_s^2 + (D / |eps_hat|^2) V) eps_hat.

  At s = data, which has no noise, it is x_hat.

  Args:
    x_hat: (B, ...) float32, the prediction at t.
    z_t: (B, ...) noisy images at t.
    x: (B, ...) the clean images.
    logsnr_t: (B,) noise level of z_t.
    logsnr_s: (B,) noise level at which the step ends, above logsnr_t.
  """
  pixels = tuple(range(1, z_t.ndim))
  is_data = process.expand(logsnr_s == jnp.inf, z_t)
  alpha_t, sigma_t = process.alpha_sigma(process.expand(logsnr_t, z_t))
  alpha_s, sigma_s = process.alpha_sigma(process.expand(logsnr_s, z_t))
  sigma_s = jnp.where(is_data, 1, sigma_s)
  eps_hat = (z_t - alpha_t * x_hat) / sigma_t
  squares = (jnp.square(e) for e in (x - x_hat, eps_hat))
  error, length = (jnp.sum(e, axis=pixels, keepdims=True) for e in squares)
  # alpha_s - alpha_t sigma_s / sigma_t
  half = process.expand((logsnr_t - logsnr_s) / 2, z_t)
  gain = -alpha_s * jnp.expm1(half)
  # The noise is longer by sqrt(1 + more); a DDIM step moves x by gain.
  more = gain * error / (length * sigma_s**2)
  change = more * sigma_s / (1 + jnp.sqrt(1 + gain * more))
  return x_hat + jnp.where(is_data, 0, change) * eps_hat


def step_error(x_hat, x_target, z_t, logsnr_t, logsnr_u):
  """Returns how far a student's step lands from its target, (B,).

  It is |z_u - z_u'| / |z_u' - z_t|, relative to the length of the step, for the
  DDIM steps t -> u of both predictions.

  Args:
    x_hat: (B, ...) float32, the student's prediction at t.
    x_target: its target, likewise.
    z_t: (B, ...) noisy images at t.
    logsnr_t: (B,) noise level of z_t.
    logsnr_u: (B,) noise level where the steps end; +inf is data.
  """

  def length(difference):
    pixels = tuple(range(1, z_t.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=pixels))

  z_u, wanted = (
    process.ddim_step(z_t, x, logsnr_t, logsnr_u) for x in (x_hat, x_target)
  )
  return length(z_u - wanted) / length(wanted - z_t)


def distillation_target(
  denoise, z_t, index, num_steps, schedule, factor=2, x_1=None
):
  """Returns the target of progressive distillation (paper, Algorithm 2).

  Args:
    denoise: the teacher, (z, logsnr) -> x_hat; not clipped.
    z_t: (B, H, W, C) float32 noisy images at t.
    index: (B,) int in [0, num_steps): t = (index + 1) / num_steps and
      u = index / num_steps, where u = 0 is data. The teacher takes `factor`
      steps of equal length from t to u.
    num_steps: the student's steps, an int or a scalar integer array.
    schedule: t -> logsnr.
    factor: int, at least 2.
    x_1: (B, H, W, C), the teacher's prediction at t where it is known.

  Returns:
    (B, H, W, C) float32, between the teacher's predictions.
  """
  logsnr_t, _ = schedules.step_logsnr(schedule, index, num_steps)

  def longer(k, x_k):
    """Returns x_{k+1} from the x whose step lands where k steps land."""
    start = factor * (index + 1) - k  # in teacher's steps from data
    logsnr_m = schedule(schedules.fraction(start, factor * num_steps))
    end = schedules.fraction(start - 1, factor * num_steps)
    logsnr_u = schedules.logsnr_at(schedule, end)
    return two_step_target(
      lambda *_: x_k, denoise, z_t, logsnr_t, logsnr_m, logsnr_u
    )

  x_1 = denoise(z_t, logsnr_t) if x_1 is None else x_1
  if factor == 2:
    return longer(1, x_1)
  return jax.lax.fori_loop(1, factor, longer, x_1)
