"""Consistency models: equal predictions at two points of one path to data.

Song et al. 2023, *Consistency Models* (arXiv 2303.01469); Song & Dhariwal
2023, *Improved Techniques for Training Consistency Models* (arXiv 2310.14189);
Heek et al. 2024, *Multistep Consistency Models* (arXiv 2403.06807); Geng et al.
2024, *Consistency Models Made Easy* (arXiv 2406.14548).

All of them take a small step from t to m, by the teacher or towards the clean
image itself, ask the target network at m, and go on to the end u of the segment
by DDIM. The student learns to get there in one step from t. With a single
segment, u is data, and the target is what the target network predicts.

A consistency model must return clean images unchanged; otherwise it could learn
to return the same for all. The heads eps, v, both and edm return z at data, and
edm_consistency does at the noise level 0.002; the head x does not.
"""

import dataclasses
import math

import jax.numpy as jnp

from diffusion_distillation.core import (
  losses,
  parameterization,
  schedules,
  targets,
)
from diffusion_distillation.objectives import levels as drawn
from diffusion_distillation.objectives.denoising import teacher_round
from diffusion_distillation.objectives.objective import Objective, Round
from diffusion_distillation.objectives.progressive import num_updates

# The teacher's step, name -> function (denoise, z_t, x, logsnr_t, logsnr_m). It
# returns the x whose DDIM step it is.
STEPS = {
  'ddim': lambda denoise, z_t, x, logsnr_t, logsnr_m: denoise(z_t, logsnr_t),
  'heun': lambda denoise, z_t, x, logsnr_t, logsnr_m: targets.heun_x(
    denoise, z_t, logsnr_t, logsnr_m
  ),
  'addim': lambda denoise, z_t, x, logsnr_t, logsnr_m: targets.addim_x(
    denoise(z_t, logsnr_t), z_t, x, logsnr_t, logsnr_m
  ),
}
# Levels on which objectives of the noise levels of Karras et al. are sampled.
_KARRAS = '@karras:include_min=False'
# Part of the training in which the number of levels rises.
_RISING = 0.5
_MORE_STEPS = (2, 4, 8)  # of a consistency model, which is made for one


def consistency_distillation(
  levels=64,
  first_levels: int | None = None,
  grid='uniform',
  step='ddim',
  distance='huber',
  segments=1,
  target_decay=0.0,
):
  """Returns consistency distillation, in one segment or in several.

  Args:
    levels: the teacher's steps from noise to data; with grid='karras', the
      noise levels, one more than the steps.
    first_levels: their number at the start; it rises exponentially to `levels`
      during half of the training. By default it is `levels`.
    grid: 'uniform' for steps of equal length in time, or 'karras' for the noise
      levels of Karras et al. (2022) from 80 to 0.002.
    step: the teacher's step, 'ddim', 'heun' or 'addim'.
    distance: between target and prediction, a name in `losses.DISTANCES`.
    segments: segments of the first round. Each later round has half as many,
      down to `distillation.end_num_steps`. All start from the teacher.
    target_decay: EMA decay of the target network; 0 takes the student itself.

  Raises:
    ValueError: an option is not valid.
  """
  _check_name('step', step, STEPS)
  _check_name('grid', grid, ('uniform', 'karras'))
  first = levels if first_levels is None else first_levels
  if not 1 <= segments <= first <= levels or levels < 2:
    raise ValueError(
      'at least 2 levels and 1 <= segments <= first_levels <= levels are '
      f'needed, got levels={levels}, first_levels={first}, segments={segments}'
    )
  if grid == 'karras' and segments > 1:
    raise ValueError("grid='karras' has one segment; use grid='uniform'")

  def draw(inputs, schedule):
    rising = jnp.minimum(inputs.progress / _RISING, 1)
    number = first * (levels / first) ** rising
    if grid == 'karras':
      return drawn.karras(inputs.time_keys, _round(number)), number
    per_segment = jnp.maximum(_round(number / inputs.num_steps), 1)
    at = drawn.segments(
      inputs.time_keys, schedule, inputs.num_steps, per_segment
    )
    return at, number

  def make(config):
    sampler = _sampler(config, _KARRAS if grid == 'karras' else '')
    return Objective(
      _loss(config, draw, STEPS[step], distance),
      _segment_rounds(config.distillation, segments),
      needs_teacher=True,
      extra_passes=3 if step == 'heun' else 2,
      target_decay=_decay(target_decay),
      sampler='ddim' if segments > 1 else sampler,
    )

  return make


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
  _check_decay(target_decay)
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
  step). In the log, `levels` is the inverse of a step's share of its level.

  Args:
    stages: how often the steps are halved, at equal intervals.
    distance: a name in `losses.DISTANCES`.

  Raises:
    ValueError: an option is not valid.
  """
  if stages < 1:
    raise ValueError(f'stages must be at least 1, got {stages}')

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
    draw: as in `_loss`.
    distance: a name in `losses.DISTANCES`.
    target_decay: as in Objective.
    weighting: as in `_loss`.
  """

  def towards_data(denoise, z_t, x, logsnr_t, logsnr_m):
    del denoise, z_t, logsnr_t, logsnr_m
    return x

  def make(config):
    # It trains a network from scratch, or tunes a teacher.
    alone = teacher_round(config)
    rounds = (dataclasses.replace(alone, num_steps=1, more_steps=_MORE_STEPS),)
    if config.distillation.objective:
      rounds = _segment_rounds(config.distillation, 1)
    return Objective(
      _loss(config, draw, towards_data, distance, weighting),
      rounds,
      needs_teacher=False,
      extra_passes=1,
      target_decay=target_decay,
      sampler=_sampler(config, _KARRAS),
    )

  return make


def _sampler(config, grid):
  """Returns the spelling of multistep consistency sampling on a time grid."""
  head = parameterization.canonical(config.model.mean_type)
  options = ':sigma_min=0.002' if head == 'edm_consistency' else ''
  return f'consistency{options}{grid}'


def _loss(config, draw, prediction, distance, weighting=None):
  """Returns LossInputs -> losses of the examples, and metrics.

  Args:
    config: config of the training.
    draw: (inputs, schedule) -> Levels and their number.
    prediction: a function as in STEPS.
    distance: a name in `losses.DISTANCES`.
    weighting: in place of that of the config.

  Raises:
    ValueError: the head has no boundary condition.
  """
  model = config.model
  if parameterization.canonical(model.mean_type) == 'x':
    raise ValueError(
      "a consistency model cannot have model.mean_type='x', which need not "
      "return clean images unchanged; use 'v', 'eps' or 'both'"
    )
  schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)
  weighting = losses.check_weighting(weighting or model.mean_loss_weight_type)
  distance = losses.get_distance(distance)

  def loss(inputs):
    at, number = draw(inputs, schedule)
    z_t = inputs.diffuse(at.logsnr_t)
    x_1 = prediction(inputs.teacher, z_t, inputs.x, at.logsnr_t, at.logsnr_m)
    x_target = targets.two_step_target(
      lambda *_: x_1, inputs.target, z_t, at.logsnr_t, at.logsnr_m, at.logsnr_u
    )
    x_hat = inputs.student(z_t, at.logsnr_t)
    weight = at.weight * losses.weight(weighting, at.logsnr_t)
    error = targets.step_error(x_hat, x_target, z_t, at.logsnr_t, at.logsnr_u)
    metrics = {'step_error': error, 'levels': jnp.asarray(number, jnp.float32)}
    return weight * distance(x_target, x_hat), metrics

  return loss


def _segment_rounds(settings, segments):
  """Returns Rounds that halve the number of segments; all distill the teacher.

  Args:
    settings: config.distillation.
    segments: those of the first round.

  Raises:
    ValueError: halving does not lead to end_num_steps.
  """
  end, counts = settings.end_num_steps, [segments]
  while counts[-1] > end and counts[-1] % 2 == 0:
    counts.append(counts[-1] // 2)
  if counts[-1] != end:
    raise ValueError(
      f'segments={segments} must be a power of two times '
      f'distillation.end_num_steps={end}'
    )
  # A single segment can also be sampled by `consistency`, in several steps.
  return tuple(
    Round(
      f'student_{count:05}',
      count,
      num_updates(settings, count),
      'teacher',
      more_steps=_MORE_STEPS if segments == 1 else (),
    )
    for count in counts
  )


def _round(number):
  return jnp.round(number).astype(jnp.int32)


def _decay(decay):
  """Returns progress -> decay, or None for 0."""
  _check_decay(decay)
  return (lambda progress: jnp.float32(decay)) if decay else None


def _check_decay(decay):
  if not 0 <= decay < 1:
    raise ValueError(f'target_decay must be in [0, 1), got {decay}')


def _check_name(option, name, known):
  if name not in known:
    raise ValueError(f'unknown {option} {name!r}; known: {", ".join(known)}')


def _check_levels(first, last):
  if not 1 <= first <= last:
    raise ValueError(
      f'1 <= first_levels <= levels are needed, got {first} and {last}'
    )
