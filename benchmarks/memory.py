"""Memory of a device in training, counted from shapes: nothing runs.

The count includes the state (parameters, moments, average), the teacher and the
gradient; and, for each image of the batch, the residuals of the network's
vector-Jacobian product, which the forward pass keeps for the backward pass. XLA
keeps less where it fuses operations, and also needs working memory. The larger
of the teacher's and the students' training is reported.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_distillation.networks.layers import AttnBlock, ResnetBlock
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state

_DEVICES = (16, 32, 80, 141)  # GB
_SPARE = 0.1  # part of a device that is left for what is not counted


def rows(subject):
  """Returns the memory of a training, and how many images fit on a device.

  Args:
    subject: a Subject whose network is a U-Net.
  """
  return [
    _row(subject, dtype, remat)
    for dtype in ('float32', 'bfloat16')
    for remat in (False, True)
  ]


def _row(subject, dtype, remat):
  trainings = subject.trainings
  dropout = max(t.config.model.args.dropout for t in trainings)
  network = subject.denoiser.network.clone(
    dtype=dtype, remat=remat, dropout=dropout
  )
  denoiser = dataclasses.replace(subject.denoiser, network=network)
  state = max(state_bytes(denoiser, training) for training in trainings)
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


def state_bytes(denoiser, training):
  """Returns the bytes of a training's state, its gradient and its teacher.

  Args:
    denoiser: a Denoiser.
    training: a Training.
  """
  train = training.config.train
  shapes, optimizer = denoiser.param_shapes(), make_optimizer(train)

  def state(params):
    return create_state(
      params, optimizer, num_updates=1, ema_decay=train.ema_decay
    )

  others = 2 if training.objective.needs_teacher else 1
  return _nbytes(jax.eval_shape(state, shapes)) + others * _nbytes(shapes)


def image_bytes(denoiser):
  """Returns the bytes that each image adds to a training step.

  Where blocks are recomputed (`remat`), these are the inputs of all blocks, and
  the residuals of the one block that needs most.

  Args:
    denoiser: a Denoiser.
  """
  # The difference of two batch sizes leaves out what does not grow with them.
  one, two = (_of_network(denoiser, size) for size in (1, 2))
  if not denoiser.network.remat:
    return two - one
  blocks = (_of_blocks(denoiser, size) for size in (1, 2))
  return two - one + max(b - a for a, b in zip(*blocks, strict=True))


def _of_network(denoiser, batch_size):
  """Returns the bytes of the network's residuals, with dropout."""

  def residuals(params, z, *inputs):
    logsnr, condition, keys = inputs
    return jax.vjp(
      lambda p: denoiser.bind(p, condition, keys)(z, logsnr), params
    )

  shapes = jax.eval_shape(
    residuals, denoiser.param_shapes(), *_inputs(denoiser, batch_size)
  )
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

  def run(params, z, logsnr, condition, keys):
    with nn.intercept_methods(record):
      return denoiser.bind(params, condition, keys)(z, logsnr)

  jax.eval_shape(run, denoiser.param_shapes(), *_inputs(denoiser, batch_size))
  return [_of_block(module, args) for module, args in blocks]


def _of_block(module, args):
  variables = jax.eval_shape(module.init, jax.random.key(0), *args)

  def residuals(variables, x, *rest):  # random keys have no derivative
    return jax.vjp(lambda *ours: module.apply(*ours, *rest), variables, x)[1]

  return _nbytes(jax.eval_shape(residuals, variables, *args))


def _inputs(denoiser, batch_size):
  """Returns z, logsnr, condition and dropout keys as ShapeDtypeStructs."""

  def inputs():
    return (
      jnp.zeros((batch_size, *denoiser.image_shape)),
      jnp.zeros((batch_size,)),
      {'label': jnp.zeros((batch_size,), jnp.int32)},
      jax.random.split(jax.random.key(0), batch_size),
    )

  return jax.eval_shape(inputs)


def _shape(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _nbytes(shapes):
  return sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
  )
