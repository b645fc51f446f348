"""Consistency training: a consistency model from data, or from a teacher.

Song et al. 2023, *Consistency Models* (arXiv 2303.01469); Song & Dhariwal
2023, *Improved Techniques for Training Consistency Models* (arXiv 2310.14189);
Geng et al. 2024, *Consistency Models Made Easy* (arXiv 2406.14548).

The small step from t to m (see `consistency`) goes towards the clean image, so
the loss needs no teacher. The network may still start from the weights of one.
"""

import dataclasses
import math

import jax.numpy as jnp

from diffusion_distillation.objectives import levels as drawn
from diffusion_distillation.objectives.consistency import (
  MORE_STEPS,
  check_decay,
  consistency_loss,
  sampler_of,
  segment_rounds,
)
from diffusion_distillation.objectives.denoising import teacher_round
from diffusion_distillation.objectives.objective import Objective


def consistency_training(
  first_levels=2, levels=150, distance='mse', target_decay=0.9
):
  """Returns consistency training from data, as first published.

  Args:
    first_levels: s_0, the number of noise levels at the start, less one.
    levels: s_1, that at the end.
    distance: a name in `losses.DISTANCES`.
    target_decay: mu_0, EMA decay of the target network at the start. It comes
      nearer to 1 as the number of levels rises.

  Raises:
    ValueError: an option is not valid.
  """
  _check_levels(first_levels, levels)
  check_decay(target_decay)
  number, decay = original_schedule(first_levels, levels, target_decay)

  def draw(inputs, schedule):
    del schedule
    count = number(inputs.progress)
    return drawn.karras(inputs.time_keys, count), count

  return _from_data(draw, distance, decay if target_decay else None)


def improved_consistency_training(
  first_levels=10, levels=1280, distance='huber'
):
  """Returns improved consistency training from data.

  The weighting of the config does not apply: its own is 1 / (the distance of
  the two levels).

  Args:
    first_levels: s_0, the number of noise levels at the start, less one; it
      doubles at equal intervals.
    levels: s_1, that at the end.
    distance: a name in `losses.DISTANCES`.

  Raises:
    ValueError: an option is not valid.
  """
  _check_levels(first_levels, levels)
  number = doubling_schedule(first_levels, levels)

  def draw(inputs, schedule):
    del schedule
    count = number(inputs.progress)
    return drawn.improved(inputs.time_keys, count), count

  return _from_data(draw, distance, None, weighting='constant')


def easy_consistency_tuning(stages=8, distance='huber'):
  """Returns easy consistency tuning (ECT), which starts from a teacher.

  The weighting of the config does not apply: its own is 1 / (the length of the
  step). In the log, `levels` is 2^(stage + 1), about the inverse of the length
  of a step relative to its noise level, where there is much noise.

  Args:
    stages: number of stages of equal length, each of which halves the steps of
      the one before.
    distance: a name in `losses.DISTANCES`.

  Raises:
    ValueError: an option is not valid.
  """
  # In float32, steps of later stages have a length of few digits.
  if not 1 <= stages <= 16:
    raise ValueError(f'stages must be from 1 to 16, got {stages}')

  def draw(inputs, schedule):
    stage = jnp.floor(inputs.progress * stages)
    return drawn.easy(inputs.time_keys, schedule, stage), 2 ** (stage + 1)

  return _from_data(draw, distance, None, weighting='constant')


def original_schedule(first, last, first_decay):
  """Returns two functions of the progress (Song et al. 2023, appendix C).

  Args:
    first: s_0.
    last: s_1.
    first_decay: mu_0.

  Returns:
    The number of noise levels, int32, and the decay of the target network.
  """

  def number(progress):
    squared = progress * ((last + 1) ** 2 - first**2) + first**2
    # The square root of a square must not be rounded to just above an integer.
    rising = jnp.ceil(jnp.sqrt(squared) * (1 - 1e-6) - 1)
    return jnp.maximum(rising, 1).astype(jnp.int32) + 1

  def decay(progress):
    return jnp.exp(first * math.log(first_decay) / (number(progress) - 1))

  return number, decay


def doubling_schedule(first, last):
  """Returns progress -> number of levels (Song & Dhariwal 2023, section 3.4).

  Args:
    first: s_0.
    last: s_1.
  """
  # K / stages is the paper's K', in which the logarithm is not rounded.
  stages = math.log2(last // first) + 1

  def number(progress):
    # A multiple of 1 / stages must not be rounded to just below it.
    stage = jnp.floor(progress * stages * (1 + 1e-6))
    return jnp.minimum(first * 2**stage, last).astype(jnp.int32) + 1

  return number


def _from_data(draw, distance, target_decay, weighting=None):
  """Returns consistency training with given levels, as config -> Objective.

  Args:
    draw: as in `consistency_loss`.
    distance: a name in `losses.DISTANCES`.
    target_decay: as in Objective.
    weighting: as in `consistency_loss`.
  """

  def towards_data(denoise, z_t, x, logsnr_t, logsnr_m):
    del denoise, z_t, logsnr_t, logsnr_m
    return x

  def make(config):
    # Without students, this trains a network from scratch; else it tunes one.
    alone = teacher_round(config)
    rounds = (dataclasses.replace(alone, num_steps=1, more_steps=MORE_STEPS),)
    if config.distillation.objective:
      rounds = segment_rounds(config.distillation, 1)
    return Objective(
      consistency_loss(config, draw, towards_data, distance, weighting),
      rounds,
      needs_teacher=False,
      extra_passes=1,
      target_decay=target_decay,
      sampler=sampler_of(config, karras=True),
    )

  return make


def _check_levels(first, last):
  if not 1 <= first <= last:
    raise ValueError(
      f'1 <= first_levels <= levels are needed, got {first} and {last}'
    )
