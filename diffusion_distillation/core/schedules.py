"""Noise schedules: log-SNR as a function of time, t = 0 data, t = 1 noise."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A noise schedule; calling it with t (B,) gives logsnr (B,), decreasing.

  Attributes:
    logsnr: t -> logsnr.
    time: logsnr -> t, the inverse.
  """

  logsnr: Callable[[jax.Array], jax.Array]
  time: Callable[[jax.Array], jax.Array]

  def __call__(self, t):
    return self.logsnr(t)


def _cosine(logsnr_min, logsnr_max):
  """Returns the schedule alpha_t = cos(pi t / 2) (section 4), clipped."""
  # alpha = cos(phi) and sigma = sin(phi), so logsnr = -2 log tan(phi), with phi
  # linear in t between the angles of the two ends.
  at_data = math.atan(math.exp(-logsnr_max / 2))  # phi(0)
  at_noise = math.atan(math.exp(logsnr_min / 2))  # pi/2 - phi(1)
  slope = math.pi / 2 - at_data - at_noise

  def logsnr_of(t):
    # tan near pi/2 would cost 1e-3 of log-SNR in float32 at t = 1; there the
    # complementary angle is small and exact, and tan(pi/2 - a) = 1 / tan(a).
    # `where` is used since minimum and maximum halve the derivative at t = 1/2.
    below = t < 0.5
    near_data = jnp.tan(slope * jnp.where(below, t, 0.5) + at_data)
    near_noise = jnp.tan(slope * (1 - jnp.where(below, 0.5, t)) + at_noise)
    return jnp.where(below, -2 * jnp.log(near_data), 2 * jnp.log(near_noise))

  def time_of(logsnr):
    # The angle phi, or its complement where that is the smaller one.
    angle = jnp.arctan(jnp.exp(-jnp.abs(logsnr) / 2))
    near_data, near_noise = (angle - at_data), (angle - at_noise)
    return jnp.where(logsnr > 0, near_data / slope, 1 - near_noise / slope)

  return Schedule(logsnr_of, time_of)


def _uniform(logsnr_min, logsnr_max):
  """Returns the schedule whose log-SNR is linear in t."""

  def logsnr_of(t):
    return logsnr_max * (1 - t) + logsnr_min * t

  def time_of(logsnr):
    return (logsnr_max - logsnr) / (logsnr_max - logsnr_min)

  return Schedule(logsnr_of, time_of)


SCHEDULES = {'cosine': _cosine, 'uniform': _uniform}
# Beyond this log-SNR, alpha^2 or sigma^2 would be 0 in float32, whose smallest
# normal number is exp(-87).
_MAX_LOGSNR = 80


def get_logsnr_schedule(
  name: str, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0
):
  """Returns the Schedule of a name.

  Args:
    name: 'cosine' (the paper's) or 'uniform' (linear in log-SNR).
    logsnr_min: log-SNR at t = 1, noise.
    logsnr_max: log-SNR at t = 0, data.

  Raises:
    ValueError: the name is unknown, logsnr_min is not below logsnr_max, or one
      of them is not in [-80, 80].
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


def karras_logsnr(along, rho, sigma_min, sigma_max):
  """Returns a noise level of Karras et al. 2022 (arXiv 2206.00364, Eq. 5).

  The levels sigma_t / alpha_t have roots of order rho with equal distances.

  Args:
    along: array in [0, 1]; 0 is sigma_max, 1 is sigma_min.
    rho: how much shorter the steps are near data.
    sigma_min: the lowest noise level.
    sigma_max: the highest one.
  """
  low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
  return -2 * rho * jnp.log(jnp.maximum(high + along * (low - high), low))


def fraction(numerator, denominator):
  """Returns the float32 quotient of two integers or integer arrays, a time."""
  return jnp.asarray(numerator, float) / jnp.asarray(denominator, float)


def time_at(schedule, logsnr):
  """Returns the time at which a schedule has a noise level.

  Args:
    schedule: t -> logsnr, a Schedule or any decreasing function, which is
      inverted by bisection.
    logsnr: array of noise levels; those that the schedule does not reach get
      the nearer of the times 0 and 1.
  """
  if isinstance(schedule, Schedule):
    return jnp.clip(schedule.time(logsnr), 0, 1)
  low, high = jnp.zeros_like(logsnr), jnp.ones_like(logsnr)
  for _ in range(26):  # float32 has no more digits near 1
    middle = (low + high) / 2
    is_noisier = schedule(middle) < logsnr
    low = jnp.where(is_noisier, low, middle)
    high = jnp.where(is_noisier, middle, high)
  return (low + high) / 2


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
