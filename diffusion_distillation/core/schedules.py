"""Noise schedules: log-SNR as a function of time, t = 0 data, t = 1 noise."""

import math

import jax.numpy as jnp


def _cosine(logsnr_min, logsnr_max):
  """alpha_t = cos(pi t / 2) (paper, section 4), angles clipped to the range."""
  # alpha = cos(phi) and sigma = sin(phi), so logsnr = -2 log tan(phi), with phi
  # linear in t between the angles of the two ends.
  at_data = math.atan(math.exp(-logsnr_max / 2))  # phi(0)
  at_noise = math.atan(math.exp(logsnr_min / 2))  # pi/2 - phi(1)
  slope = math.pi / 2 - at_data - at_noise

  def schedule(t):
    # tan near pi/2 would cost 1e-3 of log-SNR in float32 at t = 1; there the
    # complementary angle is small and exact, and tan(pi/2 - a) = 1 / tan(a).
    # where, not minimum and maximum, whose derivatives at t = 1/2 are halved.
    below = t < 0.5
    near_data = jnp.tan(slope * jnp.where(below, t, 0.5) + at_data)
    near_noise = jnp.tan(slope * (1 - jnp.where(below, 0.5, t)) + at_noise)
    return jnp.where(below, -2 * jnp.log(near_data), 2 * jnp.log(near_noise))

  return schedule


def _uniform(logsnr_min, logsnr_max):
  """Log-SNR linear in t."""

  def schedule(t):
    return logsnr_max * (1 - t) + logsnr_min * t

  return schedule


SCHEDULES = {'cosine': _cosine, 'uniform': _uniform}


def get_logsnr_schedule(name, *, logsnr_min=-20.0, logsnr_max=20.0):
  """Returns schedule(t) -> logsnr, both (B,) float32; decreasing in t.

  Args:
    name: 'cosine' (the paper's) or 'uniform' (linear in log-SNR).
    logsnr_min: log-SNR at t = 1, noise.
    logsnr_max: log-SNR at t = 0, data.

  Raises:
    ValueError: the name is unknown, or logsnr_min is not below logsnr_max.
  """
  if name not in SCHEDULES:
    known = ', '.join(SCHEDULES)
    raise ValueError(f'unknown log-SNR schedule {name!r}; known: {known}')
  if not -math.inf < logsnr_min < logsnr_max < math.inf:
    raise ValueError(
      f'logsnr_min {logsnr_min} must be below logsnr_max {logsnr_max}, and '
      'both finite'
    )
  return SCHEDULES[name](logsnr_min, logsnr_max)
