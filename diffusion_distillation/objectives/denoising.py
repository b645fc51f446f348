"""Training of a teacher by denoising (paper, Algorithm 1)."""

import jax

from diffusion_distillation.core import losses, schedules
from diffusion_distillation.objectives.objective import Objective, Round


def denoising():
  """Returns the objective of a teacher that predicts clean images."""

  def make(config):
    weighting = losses.check_weighting(config.model.mean_loss_weight_type)

    def loss(inputs):
      logsnr = draw_logsnr(config.model, inputs.time_keys)
      x_hat = inputs.student(inputs.diffuse(logsnr), logsnr)
      return losses.weighted_mse(weighting, inputs.x, x_hat, logsnr)

    return Objective(loss, (teacher_round(config),), needs_teacher=False)

  return make


def draw_logsnr(model, keys):
  """Returns the noise levels (B,) at which a teacher is trained.

  Args:
    model: config.model. Times are drawn from `train_num_steps` discrete ones,
      or from all of (0, 1) if that number is 0 or not set.
    keys: (B,) random keys.
  """

  def draw(key):
    if not model.train_num_steps:
      return jax.random.uniform(key)
    index = jax.random.randint(key, (), 0, model.train_num_steps)
    return schedules.fraction(index + 1, model.train_num_steps)

  schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)
  return schedule(jax.vmap(draw)(keys))


def teacher_round(config):
  """Returns the Round of a teacher, from the config of the teacher."""
  return Round(
    name='teacher',
    num_steps=config.model.eval_sampling_num_steps,
    num_updates=config.train.num_updates,
    parent=None,
  )
