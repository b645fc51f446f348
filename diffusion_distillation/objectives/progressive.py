"""Progressive distillation (paper, Algorithm 2)."""

import jax

from diffusion_distillation.core import losses, schedules, targets
from diffusion_distillation.objectives.objective import Objective, Round


def progressive(config):
  """Returns the Objective of students that take half their teacher's steps.

  Args:
    config: config of the students, whose section `distillation` describes the
      rounds.

  Raises:
    ValueError: start_num_steps cannot be halved to end_num_steps, or a round
      has no number of updates.
  """
  model = config.model
  schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)
  weighting = losses.check_weighting(model.mean_loss_weight_type)

  def draw_index(key, num_steps):
    return jax.random.randint(key, (), 0, num_steps)

  def loss(inputs):
    num_steps = inputs.num_steps
    index = jax.vmap(draw_index, (0, None))(inputs.time_keys, num_steps)
    logsnr, _ = schedules.step_logsnr(schedule, index, num_steps)
    z_t = inputs.diffuse(logsnr)
    x_target = targets.distillation_target(
      inputs.teacher, z_t, index, num_steps, schedule
    )
    x_hat = inputs.student(z_t, logsnr)
    return losses.weighted_mse(weighting, x_target, x_hat, logsnr)

  return Objective(
    loss,
    _rounds(config.distillation),
    needs_teacher=True,
    extra_passes=2,
    sampler='ddim',
  )


def _rounds(settings):
  """Returns the Rounds from start_num_steps / 2 down to end_num_steps."""
  start, end = settings.start_num_steps, settings.end_num_steps
  num_steps, counts = start, []
  while end >= 1 and num_steps % 2 == 0 and num_steps > end:
    num_steps //= 2
    counts.append(num_steps)
  if num_steps != end or not counts:
    raise ValueError(
      f'distillation.start_num_steps={start} must be a power of two times '
      f'distillation.end_num_steps={end}, such as {max(end, 1) * 8}'
    )
  names = [f'student_{count:05}' for count in counts]
  return tuple(
    Round(
      name=name,
      objective='progressive',
      num_steps=count,
      num_updates=_num_updates(settings.steps_per_iter, count),
      parent=parent,
    )
    for name, count, parent in zip(
      names, counts, ['teacher', *names[:-1]], strict=True
    )
  )


def _num_updates(steps_per_iter, num_steps):
  """Returns the number of updates of the round to `num_steps` steps."""
  updates = steps_per_iter
  if hasattr(updates, 'items'):
    # Keys may be strings, as in ml_collections and JSON.
    by_steps = {str(steps): number for steps, number in updates.items()}
    if str(num_steps) not in by_steps:
      raise ValueError(
        'distillation.steps_per_iter has no number of updates for the round to '
        f'{num_steps} steps; add a key {num_steps}, or give one number for all'
      )
    updates = by_steps[str(num_steps)]
  if type(updates) is not int or not 1 <= updates < 2**31:
    raise ValueError(
      'distillation.steps_per_iter must be a positive number of updates, or a '
      f'mapping from step counts to such numbers, got {updates!r}'
    )
  return updates
