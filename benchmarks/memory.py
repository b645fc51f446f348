"""Memory of a device that trains a config, counted from shapes: nothing runs.

The state: parameters, moments, average or teacher, and gradient. An image: the
residuals of the network's vector-Jacobian product, which is what the forward
pass leaves for the backward pass. XLA keeps less where it fuses, and works in
more. It is the larger of teacher's and students' training.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_distillation.networks.layers import AttnBlock, ResnetBlock
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state

_DEVICES = (16, 32, 80, 141)  # GB
# Of a device, for what is not counted.
_SPARE = 0.1


def rows(subject):
  """Returns what a device holds, and how many images fit beside it.

  Args:
    subject: has `config` and its `denoiser`.
  """
  return [
    _row(subject, dtype, remat)
    for dtype in ('float32', 'bfloat16')
    for remat in (False, True)
  ]


def _row(subject, dtype, remat):
  students, teacher = subject.config, teacher_config(subject.config)
  network = subject.denoiser.network.clone(
    dtype=dtype, remat=remat, dropout=teacher.model.args.dropout
  )
  denoiser = dataclasses.replace(subject.denoiser, network=network)
  state = max(state_bytes(denoiser, config) for config in (students, teacher))
  image = image_bytes(denoiser)
  fit = {
    f'images in {size} GB': max(
      0, int(((1 - _SPARE) * size * 1e9 - state) / image)
    )
    for size in _DEVICES
  }
  return {
    'dtype': dtype,
    'remat': remat,
    'state, MB': state / 1e6,
    'MB per image': image / 1e6,
    **fit,
  }


def state_bytes(denoiser, config):
  """Returns the bytes of a training's state, its gradient and its teacher.

  Args:
    denoiser: a Denoiser.
    config: of a teacher, or of students where it has a section `distillation`.
  """
  shapes, optimizer = denoiser.param_shapes(), make_optimizer(config.train)

  def state(params):
    return create_state(
      params, optimizer, num_updates=1, ema_decay=config.train.ema_decay
    )

  others = 1 if config.distillation is None else 2
  return _nbytes(jax.eval_shape(state, shapes)) + others * _nbytes(shapes)


def image_bytes(denoiser):
  """Returns the bytes that one more image takes in a training step.

  Where blocks are recomputed, that is their inputs, and all of the block that
  needs most.
  """
  # What does not grow with the batch, as the parameters, cancels.
  one, two = (_of_network(denoiser, size) for size in (1, 2))
  if not denoiser.network.remat:
    return two - one
  blocks = (_of_blocks(denoiser, size) for size in (1, 2))
  return two - one + max(b - a for a, b in zip(*blocks, strict=True))


def _of_network(denoiser, batch_size):
  """Returns the bytes of the network's residuals, with its dropout."""

  def residuals(params, *inputs):
    z, logsnr, labels, keys = inputs
    return jax.vjp(lambda p: denoiser.bind(p, labels, keys)(z, logsnr), params)

  inputs = (*_inputs(denoiser, batch_size), _keys(batch_size))
  shapes = jax.eval_shape(residuals, denoiser.param_shapes(), *inputs)
  return _nbytes(shapes[1])


def _of_blocks(denoiser, batch_size):
  """Returns the bytes of the residuals of each block alone, with dropout."""
  network, blocks = denoiser.network.clone(remat=False), []
  denoiser = dataclasses.replace(denoiser, network=network)

  def record(call, args, kwargs, context):
    if isinstance(context.module, ResnetBlock | AttnBlock):
      shapes = jax.tree.map(_shape, args)
      blocks.append((context.module.clone(parent=None, name=None), shapes))
    return call(*args, **kwargs)

  def run(params, z, logsnr, labels, keys):
    with nn.intercept_methods(record):
      return denoiser.bind(params, labels, keys)(z, logsnr)

  inputs = (*_inputs(denoiser, batch_size), _keys(batch_size))
  jax.eval_shape(run, denoiser.param_shapes(), *inputs)
  return [_of_block(module, args) for module, args in blocks]


def _of_block(module, args):
  variables = jax.eval_shape(module.init, jax.random.key(0), *args)

  def residuals(variables, x, *rest):  # random keys have no derivative
    return jax.vjp(lambda *ours: module.apply(*ours, *rest), variables, x)[1]

  return _nbytes(jax.eval_shape(residuals, variables, *args))


def _inputs(denoiser, batch_size):
  z = jax.ShapeDtypeStruct((batch_size, *denoiser.image_shape), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  return z, logsnr, labels


def _keys(batch_size):
  return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))


def _shape(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _nbytes(shapes):
  return sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
  )
