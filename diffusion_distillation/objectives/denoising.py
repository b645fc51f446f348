"""The teacher's training step (paper, Algorithm 1)."""

import jax
import jax.numpy as jnp

from diffusion_distillation.core import losses, schedules
from diffusion_distillation.training.step import (
  diffuse,
  example_keys,
  gradient_update,
  to_unit,
)


def make_train_step(denoiser, optimizer, config):
  """Returns train_step(state, batch, key) -> (state, metrics), per replica.

  It is to be compiled by `replicas.compile_step`, over the axis 'batch'.

  Args:
    denoiser: a Denoiser.
    optimizer: from `make_optimizer(config.train)`.
    config: of the teacher.
  """
  model = config.model
  schedule = schedules.get_logsnr_schedule(**model.train_logsnr_schedule)

  def train_step(state, batch, key):
    keys = example_keys(key, state.step, len(batch['image']))
    return gradient_update(
      state, loss_fn, (batch, keys), optimizer=optimizer, train=config.train
    )

  def loss_fn(params, examples):
    batch, (time_keys, eps_keys, dropout_keys) = examples
    x = to_unit(batch['image'])  # (B, H, W, C)
    logsnr = schedule(jax.vmap(draw_time)(time_keys))
    z_t = diffuse(x, logsnr, eps_keys)
    x_hat = denoiser.bind(params, batch['label'], dropout_keys)(z_t, logsnr)
    name = model.mean_loss_weight_type
    return jnp.mean(losses.weighted_mse(name, x, x_hat, logsnr))

  def draw_time(key):
    num_steps = model.train_num_steps
    if num_steps == 0:  # continuous time
      return jax.random.uniform(key)
    index = jax.random.randint(key, (), 0, num_steps)
    return (index + 1).astype(jnp.float32) / num_steps

  return train_step
