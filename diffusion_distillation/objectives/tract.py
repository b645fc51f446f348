"""TRACT: targets of large steps from an EMA of the student itself.

Berthelot et al. 2023, *TRACT: Denoising Diffusion Models with Transitive
Closure Time-Distillation* (arXiv 2303.04248).
"""

import jax.numpy as jnp

from diffusion_distillation.core import losses, schedules, targets
from diffusion_distillation.objectives import levels
from diffusion_distillation.objectives.objective import Objective
from diffusion_distillation.objectives.progressive import ladder


def tract(factor=32, target_decay=0.5):
  """Returns TRACT, whose rounds divide the number of steps by a large factor.

  A step of the student replaces a group of `factor` steps of the teacher. Its
  target makes one step with the teacher, and the rest of the group with the
  average of the student, which learns that by itself from the end of the group.

  Args:
    factor: the teacher's steps in a group.
    target_decay: decay of the EMA that predicts the targets; its bias is
      corrected, as in Adam.

  Raises:
    ValueError: factor is below 2, or target_decay is not in [0, 1).
  """
  if factor < 2 or not 0 <= target_decay < 1:
    raise ValueError(
      'factor of at least 2 and target_decay in [0, 1) are needed, got '
      f'{factor} and {target_decay}'
    )

  def make(config):
    model = config.model
    schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)
    weighting = losses.check_weighting(model.mean_loss_weight_type)

    def loss(inputs):
      at = levels.segments(inputs.time_keys, schedule, inputs.num_steps, factor)
      z_t = inputs.diffuse(at.logsnr_t)
      x_1 = clipped(inputs.teacher)(z_t, at.logsnr_t)
      x_target = targets.two_step_target(
        lambda *_: x_1,
        clipped(inputs.target),
        z_t,
        at.logsnr_t,
        at.logsnr_m,
        at.logsnr_u,
      )
      x_hat = inputs.student(z_t, at.logsnr_t)
      loss, teacher_loss = (
        losses.weighted_mse(weighting, x, x_hat, at.logsnr_t)
        for x, x_hat in ((x_target, x_hat), (inputs.x, x_1))
      )
      return loss, {
        'step_error': targets.step_error(
          x_hat, x_target, z_t, at.logsnr_t, at.logsnr_u
        ),
        'teacher_loss': teacher_loss,
      }

    return Objective(
      loss,
      ladder(config.distillation, factor),
      needs_teacher=True,
      extra_passes=2,
      target_decay=lambda progress: jnp.float32(target_decay),
      sampler='ddim',
    )

  return make


def clipped(denoise):
  """Returns denoise with its predictions clipped to [-1, 1], as in TRACT."""
  return lambda z, logsnr: jnp.clip(denoise(z, logsnr), -1, 1)
