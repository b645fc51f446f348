"""One-shot distillation: the teacher's image from its noise, in one step.

Luhman & Luhman 2021, *Knowledge Distillation in Iterative Generative Models for
Improved Sampling Speed* (arXiv 2101.02388).
"""

import jax.numpy as jnp

from diffusion_distillation.core import losses, schedules, targets
from diffusion_distillation.objectives.objective import Objective, Round
from diffusion_distillation.objectives.progressive import num_updates


def one_shot(pairs=50_000, distance='l1'):
  """Returns the objective of a student that draws images in one step.

  It is trained on pairs of noise and the image that the teacher draws from it
  by DDIM, in `distillation.start_num_steps` steps. It needs no other data.

  Args:
    pairs: number of pairs.
    distance: between the teacher's image and the student's, a name in
      `losses.DISTANCES`.

  Raises:
    ValueError: pairs is below 1, or the distance is unknown.
  """
  distance = losses.get_distance(distance)
  if pairs < 1:
    raise ValueError(f'pairs must be at least 1, got {pairs}')

  def make(config):
    schedule = schedules.get_logsnr_schedule(
      **config.model.train_logsnr_schedule
    )
    if config.distillation.end_num_steps != 1:
      raise ValueError(
        'one_shot has a single student, of one step; set '
        'distillation.end_num_steps=1, got '
        f'{config.distillation.end_num_steps}'
      )

    def loss(inputs):
      z_1 = inputs.noise
      logsnr = schedule(jnp.ones(len(z_1)))
      x_hat = inputs.student(z_1, logsnr)
      end = jnp.full_like(logsnr, jnp.inf)
      error = targets.step_error(x_hat, inputs.x, z_1, logsnr, end)
      return distance(inputs.x, x_hat), {'step_error': error}

    student = Round(
      'student_00001', 1, num_updates(config.distillation, 1), 'teacher'
    )
    return Objective(
      loss, (student,), needs_teacher=False, sampler='ddim', num_pairs=pairs
    )

  return make
