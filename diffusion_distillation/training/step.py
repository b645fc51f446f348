"""What the teacher's and the student's steps share."""

import chex
import jax
import jax.numpy as jnp
import optax

from diffusion_distillation.core import process
from diffusion_distillation.training import optimizer as optimizers


def to_unit(images):
  """Returns uint8 images (B, H, W, C) as float32 in [-1, 1]."""
  chex.assert_rank(images, 4)
  chex.assert_type(images, jnp.uint8)
  return images.astype(jnp.float32) / 127.5 - 1


def example_keys(key, step, num_examples):
  """Returns (B,) random keys of this replica's examples, for three purposes.

  They are folded from the step and the example's index in the global batch, so
  that a run does not depend on the number of devices.

  Args:
    key: of this training.
    step: updates made.
    num_examples: B, of this replica.

  Returns:
    Keys of the times, of the noise and of dropout.
  """
  index = jax.lax.axis_index('batch') * num_examples + jnp.arange(num_examples)
  step_key = jax.random.fold_in(key, step)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, index)
  time_keys, eps_keys, dropout_keys = jax.vmap(
    lambda key: jax.random.split(key, 3), out_axes=1
  )(keys)
  return time_keys, eps_keys, dropout_keys


def diffuse(x, logsnr, eps_keys):
  """Returns x with each example's own noise, z_t at logsnr."""
  eps = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(eps_keys)
  return process.diffuse(x, logsnr, eps)


def mean_gradient(loss_fn, params, examples, parts):
  """Returns loss and gradient, means over the examples, one part at a time.

  Args:
    loss_fn: (params, examples) -> scalar, the mean over these examples.
    params: float32, as are the sums of the gradients.
    examples: pytree whose leaves have a leading axis B.
    parts: by which B can be divided. With 1 there is no loop.
  """
  gradient = jax.value_and_grad(loss_fn)
  if parts == 1:
    return gradient(params, examples)

  def add(total, part):
    return jax.tree.map(jnp.add, total, gradient(params, part)), None

  split = jax.tree.map(lambda e: e.reshape(parts, -1, *e.shape[1:]), examples)
  zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
  # Not a loop on CPU: see `replicas.compile_step`.
  unroll = parts if jax.default_backend() == 'cpu' else 1
  total, _ = jax.lax.scan(add, zeros, split, unroll=unroll)
  return jax.tree.map(lambda t: t / parts, total)


def gradient_update(state, loss_fn, examples, *, optimizer, train):
  """Returns the state after one update, and its metrics.

  Args:
    state: a TrainState.
    loss_fn: (params, examples) -> scalar, the mean over these examples.
    examples: this replica's, a pytree whose leaves have a leading axis B.
    optimizer: from `make_optimizer`.
    train: config.train.
  """
  loss, grads = mean_gradient(loss_fn, state.params, examples, train.accumulate)
  # The mean over all replicas comes before clipping: clipping each replica's
  # gradient would make the result depend on their number.
  loss, grads = jax.lax.pmean((loss, grads), 'batch')
  rate = optimizers.learning_rate(train, state.step, state.num_updates)
  direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
  ema_params = state.ema_params
  if ema_params is not None:
    ema_params = optimizers.update_average(
      ema_params, params, state.step, train.ema_decay
    )
  metrics = {
    'loss': loss,
    'grad_norm': optax.tree.norm(grads),
    'learning_rate': rate,
  }
  state = state.replace(
    step=state.step + 1,
    params=params,
    ema_params=ema_params,
    opt_state=opt_state,
  )
  return state, metrics
