"""Training of a teacher by denoising (paper, Algorithm 1)."""

import jax
import jax.numpy as jnp

from diffusion_distillation.core import losses, schedules
from diffusion_distillation.objectives.objective import Objective, Round


def denoising(config):
  """Returns the Objective of a teacher.

  Args:
    config: config of the teacher. Times are drawn from `model.train_num_steps`
      discrete ones, or from all of (0, 1) if that number is 0.
  """
  model = config.model
  schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)
  weighting = losses.check_weighting(model.mean_loss_weight_type)

  def draw_time(key):
    num_steps = model.train_num_steps
    if num_steps == 0:
      return jax.random.uniform(key)
    index = jax.random.randint(key, (), 0, num_steps)
    return (index + 1).astype(jnp.float32) / num_steps

  def loss(inputs):
    logsnr = schedule(jax.vmap(draw_time)(inputs.time_keys))
    x_hat = inputs.student(inputs.diffuse(logsnr), logsnr)
    return losses.weighted_mse(weighting, inputs.x, x_hat, logsnr)

  teacher = Round(
    name='teacher',
    objective='denoising',
    num_steps=model.eval_sampling_num_steps,
    num_updates=config.train.num_updates,
    parent=None,
  )
  return Objective(loss, (teacher,), needs_teacher=False)
