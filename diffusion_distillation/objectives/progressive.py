"""Progressive distillation (paper, Algorithm 2)."""

from diffusion_distillation.core import losses, schedules, targets
from diffusion_distillation.objectives import levels
from diffusion_distillation.objectives.objective import Objective, Round


def progressive(factor=2):
  """Returns the objective of students that take fewer steps than their teacher.

  Args:
    factor: the teacher's steps that one step of the student replaces.

  Raises:
    ValueError: factor is below 2.
  """
  if factor < 2:
    raise ValueError(f'factor must be at least 2, got {factor}')

  def make(config):
    model = config.model
    schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)
    weighting = losses.check_weighting(model.mean_loss_weight_type)

    def loss(inputs):
      num_steps = inputs.num_steps
      index = levels.draw_index(inputs.time_keys, num_steps)
      at = schedules.step_logsnr(schedule, index, num_steps)
      logsnr, _ = at
      z_t = inputs.diffuse(logsnr)
      x_1 = inputs.teacher(z_t, logsnr)
      x_target = targets.distillation_target(
        inputs.teacher, z_t, index, num_steps, schedule, factor, x_1
      )
      x_hat = inputs.student(z_t, logsnr)
      loss = losses.weighted_mse(weighting, x_target, x_hat, logsnr)
      return loss, {
        'step_error': targets.step_error(x_hat, x_target, z_t, *at),
        'teacher_loss': losses.weighted_mse(weighting, inputs.x, x_1, logsnr),
      }

    return Objective(
      loss,
      ladder(config.distillation, factor),
      needs_teacher=True,
      extra_passes=factor,
      sampler='ddim',
    )

  return make


def ladder(settings, factor):
  """Returns Rounds that each divide the number of steps by `factor`.

  Args:
    settings: config.distillation. The first round distills start_num_steps, and
      the last one ends at end_num_steps.
    factor: int.

  Raises:
    ValueError: the step counts are not such a sequence, or a round has no
      number of updates.
  """
  start, end = settings.start_num_steps, settings.end_num_steps
  num_steps, counts = start, []
  while end >= 1 and num_steps % factor == 0 and num_steps > end:
    num_steps //= factor
    counts.append(num_steps)
  if num_steps != end or not counts:
    powers = 'a power of two' if factor == 2 else f'a power of {factor}'
    raise ValueError(
      f'distillation.start_num_steps={start} must be {powers} times '
      f'distillation.end_num_steps={end}, such as {max(end, 1) * factor**3}'
    )
  names = [f'student_{count:05}' for count in counts]
  return tuple(
    Round(name, count, num_updates(settings, count), parent)
    for name, count, parent in zip(
      names, counts, ['teacher', *names[:-1]], strict=True
    )
  )


def num_updates(settings, num_steps):
  """Returns the number of updates of the round to `num_steps` steps.

  Args:
    settings: config.distillation.
    num_steps: int.

  Raises:
    ValueError: there is no such number.
  """
  updates = settings.steps_per_iter
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
