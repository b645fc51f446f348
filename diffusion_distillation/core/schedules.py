"""Noise schedules: log-SNR as a function of time, t = 0 data, t = 1 noise."""

import math

import jax.numpy as jnp


def _cosine(logsnr_min, logsnr_max):
  """Returns the schedule alpha_t = cos(pi t / 2) (section 4), clipped."""
  # alpha = cos(phi) and sigma = sin(phi), so logsnr = -2 log tan(phi), with phi
  # linear in t between the angles of the two ends.
  at_data = math.atan(math.exp(-logsnr_max / 2))  # phi(0)
  at_noise = math.atan(math.exp(logsnr_min / 2))  # pi/2 - phi(1)
  slope = math.pi / 2 - at_data - at_noise

  def schedule(t):
    # tan near pi/2 would cost 1e-3 of log-SNR in float32 at t = 1; there the
    # complementary angle is small and exact, and tan(pi/2 - a) = 1 / tan(a).
    # `where` is used since minimum and maximum halve the derivative at t = 1/2.
    below = t < 0.5
    near_data = jnp.tan(slope * jnp.where(below, t, 0.5) + at_data)
    near_noise = jnp.tan(slope * (1 - jnp.where(below, 0.5, t)) + at_noise)
    return jnp.where(below, -2 * jnp.log(near_data), 2 * jnp.log(near_noise))

  return schedule


def _uniform(logsnr_min, logsnr_max):
  """Returns the schedule whose log-SNR is linear in t."""

  def schedule(t):
    return logsnr_max * (1 - t) + logsnr_min * t

  return schedule


SCHEDULES = {'cosine': _cosine, 'uniform': _uniform}
# Beyond this log-SNR, alpha^2 or sigma^2 would be 0 in float32, whose smallest
# normal number is exp(-87).
_MAX_LOGSNR = 80


def get_logsnr_schedule(
  name: str, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0
):
  """Returns schedule(t) -> logsnr, both (B,) float32; decreasing in t.

  Args:
    name: 'cosine' (the paper's) or 'uniform' (linear in log-SNR).
    logsnr_min: log-SNR at t = 1, noise.
    logsnr_max: log-SNR at t = 0, data.

  Raises:
    ValueError: the name is unknown, logsnr_min is not below logsnr_max, or one
      of them is beyond -80 to 80.
  """
  if name not in SCHEDULES:
    known = ', '.join(SCHEDULES)
    raise ValueError(f'unknown log-SNR schedule {name!r}; known: {known}')
  if not -_MAX_LOGSNR <= logsnr_min < logsnr_max <= _MAX_LOGSNR:
    raise ValueError(
      f'logsnr_min {logsnr_min} must be below logsnr_max {logsnr_max}, and '
      f'both from -{_MAX_LOGSNR} to {_MAX_LOGSNR}'
    )
  return SCHEDULES[name](logsnr_min, logsnr_max)


def fraction(numerator, denominator):
  """Returns the float32 quotient of two integers or integer arrays, a time."""
  return jnp.asarray(numerator, float) / jnp.asarray(denominator, float)


def logsnr_at(schedule, t):
  """Returns the noise level that a step starts from or ends at.

  Args:
    schedule: t -> logsnr.
    t: (B,) float32 times; 0 means data itself, at +inf, and not the finite
      log-SNR at which the schedule starts.
  """
  return jnp.where(t == 0, jnp.inf, schedule(t))


def step_logsnr(schedule, index, num_steps):
  """Returns logsnr at t = (index + 1) / num_steps and at s = index / num_steps.

  Times come from integers, since t - 1 / num_steps could fall below 0 in
  float32. s = 0 is data, logsnr_s = +inf.

  Args:
    schedule: t -> logsnr.
    index: (B,) int in [0, num_steps).
    num_steps: int, or scalar integer array.
  """
  logsnr_t = schedule(fraction(index + 1, num_steps))
  return logsnr_t, logsnr_at(schedule, fraction(index, num_steps))
