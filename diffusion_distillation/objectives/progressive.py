"""The student's training step: distillation (paper, Algorithm 2)."""

import jax
import jax.numpy as jnp

from diffusion_distillation.core import losses, schedules, targets
from diffusion_distillation.training.step import (
  diffuse,
  example_keys,
  gradient_update,
  to_unit,
)


def make_distill_step(denoiser, optimizer, config):
  """Returns distill_step(state, teacher_params, num_steps, batch, key).

  It gives (state, metrics), per replica, and is to be compiled by
  `replicas.compile_step`, over the axis 'batch'. Teacher and step count are
  arguments, so that one compiled program serves every round.

  Args:
    denoiser: a Denoiser, the teacher's and the student's.
    optimizer: from `make_optimizer(config.train)`.
    config: of the students.
  """
  model = config.model
  schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)

  def distill_step(state, teacher_params, num_steps, batch, key):
    def loss_fn(params, examples):
      batch, (time_keys, eps_keys, dropout_keys) = examples
      x, labels = to_unit(batch['image']), batch['label']  # (B, H, W, C), (B,)
      index = jax.vmap(lambda k: jax.random.randint(k, (), 0, num_steps))(
        time_keys
      )
      logsnr, _ = targets.step_logsnr(schedule, index, num_steps)
      z_t = diffuse(x, logsnr, eps_keys)
      # Of parameters that are not `params`: no gradient reaches the teacher.
      # Nothing is clipped here.
      x_target = targets.distillation_target(
        denoiser.bind(teacher_params, labels), z_t, index, num_steps, schedule
      )
      x_hat = denoiser.bind(params, labels, dropout_keys)(z_t, logsnr)
      name = model.mean_loss_weight_type
      return jnp.mean(losses.weighted_mse(name, x_target, x_hat, logsnr))

    keys = example_keys(key, state.step, len(batch['image']))
    return gradient_update(
      state, loss_fn, (batch, keys), optimizer=optimizer, train=config.train
    )

  return distill_step
