"""Consistency models: equal predictions at two points of one path to data.

Song et al. 2023, *Consistency Models* (arXiv 2303.01469); Heek et al. 2024,
*Multistep Consistency Models* (arXiv 2403.06807).

The teacher takes a small step from t to m, the target network predicts there,
and DDIM goes on to the end u of the segment. The student learns to get there in
one step from t. With a single segment, u is data, and the target is what the
target network predicts.

A consistency model must return clean images unchanged; otherwise it could
collapse to a constant. The heads eps, v, both and edm return z itself where
there is no noise, and edm_consistency does at the noise level 0.002; the head x
does not.
"""

import jax.numpy as jnp

from diffusion_distillation.core import (
  losses,
  parameterization,
  schedules,
  targets,
)
from diffusion_distillation.objectives import levels as drawn
from diffusion_distillation.objectives.objective import Objective, Round
from diffusion_distillation.objectives.progressive import num_updates

# The teacher's step, name -> function (denoise, z_t, x, logsnr_t, logsnr_m). It
# returns the x for which DDIM lands at m where the teacher's step does.
STEPS = {
  'ddim': lambda denoise, z_t, x, logsnr_t, logsnr_m: denoise(z_t, logsnr_t),
  'heun': lambda denoise, z_t, x, logsnr_t, logsnr_m: targets.heun_x(
    denoise, z_t, logsnr_t, logsnr_m
  ),
  'addim': lambda denoise, z_t, x, logsnr_t, logsnr_m: targets.addim_x(
    denoise(z_t, logsnr_t), z_t, x, logsnr_t, logsnr_m
  ),
}
# Part of the training in which the number of levels rises.
_RISING = 0.5
_MAX_LEVELS = 2**20
# Steps, besides a single one, in which consistency models are sampled.
MORE_STEPS = (2, 4, 8)


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
  if grid == 'karras' and first < 2:
    raise ValueError("grid='karras' needs first_levels of at least 2")
  if levels > _MAX_LEVELS:
    raise ValueError(f'levels must be at most {_MAX_LEVELS}, got {levels}')
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
    return at, inputs.num_steps * per_segment

  def make(config):
    sampler = 'ddim' if segments > 1 else sampler_of(config, grid == 'karras')
    return Objective(
      consistency_loss(config, draw, STEPS[step], distance),
      segment_rounds(config.distillation, segments),
      needs_teacher=True,
      extra_passes=3 if step == 'heun' else 2,
      target_decay=_decay(target_decay),
      sampler=sampler,
    )

  return make


def sampler_of(config, karras):
  """Returns the spelling of the sampler of a consistency model.

  Args:
    config: config of the training.
    karras: whether its noise levels are those of Karras et al., from 80 to
      0.002, or equal parts of the time.
  """
  head = parameterization.canonical(config.model.mean_type)
  options = ':sigma_min=0.002' if head == 'edm_consistency' else ''
  grid = '@karras:include_min=False' if karras else ''
  return f'consistency{options}{grid}'


def consistency_loss(config, draw, prediction, distance, weighting=None):
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


def segment_rounds(settings, segments):
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
      more_steps=MORE_STEPS if segments == 1 else (),
    )
    for count in counts
  )


def _round(number):
  return jnp.round(number).astype(jnp.int32)


def _decay(decay):
  """Returns progress -> decay, or None for 0."""
  check_decay(decay)
  return (lambda progress: jnp.float32(decay)) if decay else None


def check_decay(decay):
  """Raises ValueError unless a decay is in [0, 1)."""
  if not 0 <= decay < 1:
    raise ValueError(f'target_decay must be in [0, 1), got {decay}')


def _check_name(option, name, known):
  if name not in known:
    raise ValueError(f'unknown {option} {name!r}; known: {", ".join(known)}')
