"""Noise levels that consistency objectives draw: where steps start and end.

A level is a log-SNR. The papers write sigma = sigma_t / alpha_t, which is
exp(-logsnr / 2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from diffusion_distillation.core import schedules


class Levels(NamedTuple):
  """Log-SNRs of a step from t to m, and of the end u of its segment.

  All have the shape (B,) and are float32.
  """

  logsnr_t: jax.Array
  logsnr_m: jax.Array
  logsnr_u: jax.Array
  weight: jax.Array | float = 1.0  # of the loss, besides that of the config


def segments(keys, schedule, num_segments, per_segment):
  """Returns Levels of num_segments * per_segment steps of equal length in time.

  Every step is equally likely. Its segment ends at a multiple of
  1 / num_segments, of which 0 is data.

  Args:
    keys: (B,) random keys.
    schedule: t -> logsnr.
    num_segments: int or scalar integer array.
    per_segment: the steps of a segment, likewise.
  """
  num_steps = num_segments * per_segment
  index = draw_index(keys, num_steps)
  logsnr_t, logsnr_m = schedules.step_logsnr(schedule, index, num_steps)
  end = schedules.fraction(index // per_segment, num_segments)
  return Levels(logsnr_t, logsnr_m, schedules.logsnr_at(schedule, end))


def draw_index(keys, number):
  """Returns (B,) integers in [0, number), one for each of (B,) keys."""
  return jax.vmap(lambda key: jax.random.randint(key, (), 0, number))(keys)


def karras(keys, number):
  """Returns Levels of neighbours among the levels of Karras et al. (2022).

  Args:
    keys: (B,) random keys.
    number: N >= 2, the number of levels, an int or a scalar integer array.
  """
  return neighbours(draw_index(keys, number - 1), number)


def improved(keys, number):
  """Returns Levels of improved consistency training (Song & Dhariwal 2023).

  A pair of neighbours among the levels of Karras et al. is as likely as log
  sigma ~ N(-1.1, 2^2) is between them, and has the weight 1 / (their distance).

  Args:
    keys: (B,) random keys.
    number: N >= 2, as in `karras`.
  """
  low, high = (
    ndtr((jnp.log(sigma) - _MEAN) / _STD) for sigma in (_SIGMA_MIN, _SIGMA_MAX)
  )
  share = jax.vmap(jax.random.uniform)(keys)
  sigma = jnp.exp(_MEAN + _STD * ndtri(low + share * (high - low)))
  levels = neighbours(_index_below(sigma, number), number)
  return levels._replace(weight=_inverse_distance(levels))


def easy(keys, schedule, stage):
  """Returns Levels of easy consistency tuning (Geng et al. 2024).

  log sigma ~ N(-1.1, 2^2), and the step ends at
  sigma (1 - 2^-(stage + 1) (1 + 8 sigmoid(-sigma))), but not below 0, which is
  data. The weight is 1 / (the length of the step).

  Args:
    keys: (B,) random keys.
    schedule: t -> logsnr, which bounds the levels.
    stage: int array, from 0; each stage halves the steps.
  """
  log_sigma = _MEAN + _STD * jax.vmap(jax.random.normal)(keys)
  logsnr_t = jnp.clip(-2 * log_sigma, schedule(1.0), schedule(0.0))
  sigma = jnp.exp(-logsnr_t / 2)
  ratio = 1 - 0.5 ** (stage + 1.0) * (1 + 8 * jax.nn.sigmoid(-sigma))
  logsnr_m = logsnr_t - 2 * jnp.log(jnp.maximum(ratio, 0))
  levels = Levels(logsnr_t, logsnr_m, jnp.full_like(logsnr_t, jnp.inf))
  return levels._replace(weight=_inverse_distance(levels))


# Distribution of log sigma, and range of sigma, in the papers.
_MEAN, _STD = -1.1, 2.0
_SIGMA_MIN, _SIGMA_MAX, _RHO = 0.002, 80.0, 7.0


def neighbours(index, number):
  """Returns Levels of the steps from level `index` to the next lower one."""
  last = jnp.asarray(number) - 1
  logsnr_t, logsnr_m = (
    schedules.karras_logsnr(
      schedules.fraction(i, last), _RHO, _SIGMA_MIN, _SIGMA_MAX
    )
    for i in (index, index + 1)
  )
  return Levels(logsnr_t, logsnr_m, jnp.full_like(logsnr_t, jnp.inf))


def _index_below(sigma, number):
  """Returns the index of the level above sigma, whose next one is below it."""
  low, high = _SIGMA_MIN ** (1 / _RHO), _SIGMA_MAX ** (1 / _RHO)
  along = (high - sigma ** (1 / _RHO)) / (high - low) * (number - 1)
  return jnp.clip(jnp.floor(along).astype(jnp.int32), 0, number - 2)


def _inverse_distance(levels):
  sigma_t, sigma_m = (jnp.exp(-logsnr / 2) for logsnr in levels[:2])
  return 1 / (sigma_t - sigma_m)
