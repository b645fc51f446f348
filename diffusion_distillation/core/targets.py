"""Distillation targets: the x at which one step lands where two steps do."""

import chex
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


def distillation_target(denoise, z_t, index, num_steps, schedule):
  """Returns the target of progressive distillation (paper, Algorithm 2).

  Args:
    denoise: the teacher, (z, logsnr) -> x_hat; not clipped.
    z_t: (B, H, W, C) float32 noisy images at t.
    index: (B,) int in [0, num_steps): t = (index + 1) / num_steps,
      m = (index + 1/2) / num_steps, u = index / num_steps, and u = 0 is data.
    num_steps: the student's steps, an int or a scalar integer array.
    schedule: t -> logsnr.

  Returns:
    (B, H, W, C) float32, between the teacher's two predictions.
  """
  logsnr_t, logsnr_u = schedules.step_logsnr(schedule, index, num_steps)
  logsnr_m = schedule(schedules.fraction(2 * index + 1, 2 * num_steps))
  return two_step_target(denoise, denoise, z_t, logsnr_t, logsnr_m, logsnr_u)
