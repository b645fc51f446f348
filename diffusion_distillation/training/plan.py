"""What a config will cost, before anything runs."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_distillation.objectives.rounds import rounds
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state


def forward_flops(denoiser):
  """Returns the FLOPs of one evaluation of one image, by XLA's count.

  In float32, since fused attention, of other types, is not counted.
  """
  network = denoiser.network.clone(dtype='float32')
  denoiser = dataclasses.replace(denoiser, network=network)
  z = jax.ShapeDtypeStruct((1, *denoiser.image_shape), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)
  labels = jax.ShapeDtypeStruct((1,), jnp.int32)

  def forward(params, z, logsnr, labels):
    return denoiser.bind(params, labels)(z, logsnr)

  lowered = jax.jit(forward).lower(denoiser.param_shapes(), z, logsnr, labels)
  return lowered.cost_analysis()['flops']


def _nbytes(tree):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _checkpoint_bytes(denoiser, train):
  """Returns the size of a checkpoint's arrays, before compression."""
  optimizer = make_optimizer(train)
  shapes = denoiser.param_shapes()

  def state(params):
    created = create_state(
      params, optimizer, num_updates=1, ema_decay=train.ema_decay
    )
    return created

  return _nbytes(jax.eval_shape(state, shapes))


def plan(config, denoiser):
  """Returns the resolved ladder as a text table; computes nothing.

  Args:
    config: checked.
    denoiser: its Denoiser.
  """
  shapes = denoiser.param_shapes()
  params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  forward = forward_flops(denoiser)
  rows = []
  teacher = teacher_config(config)
  ladder = [] if config.distillation is None else rounds(config.distillation)
  if not ladder or config.distillation.teacher_checkpoint_path is None:
    # Forward and backward: three times the forward pass.
    size = _checkpoint_bytes(denoiser, teacher.train)
    updates, batch_size = teacher.train.num_updates, teacher.train.batch_size
    rows.append(('teacher', updates, batch_size, 3 * forward, size))
  if ladder:
    size = _checkpoint_bytes(denoiser, config.train)
  for this in ladder:
    # And two forward passes of the teacher.
    batch_size = config.train.batch_size
    rows.append((this.name, this.num_updates, batch_size, 5 * forward, size))
  total_updates = sum(updates for _, updates, *_ in rows)
  total_images = sum(updates * batch for _, updates, batch, *_ in rows)
  total_flops = sum(u * batch * flops for _, u, batch, flops, _ in rows)
  lines = [
    f'{config.dataset.name}: '
    f'{"x".join(map(str, denoiser.image_shape))} images, '
    f'{params:,} parameters ({params / 1e6:.1f}M), '
    f'{forward / 1e9:.4g} GFLOP per image and evaluation',
    '',
    f'{"training":<14}{"updates":>11}{"images":>15}{"FLOP/update":>14}'
    f'{"checkpoint":>14}',
  ]
  for name, updates, batch, flops, size in rows:
    lines.append(
      f'{name:<14}{updates:>11,}{updates * batch:>15,}'
      f'{flops * batch:>14.3g}{size / 1e6:>11,.1f} MB'
    )
  lines.append(
    f'{"total":<14}{total_updates:>11,}{total_images:>15,}{total_flops:>14.3g}'
  )
  return '\n'.join(lines)
