"""Optimizer, learning rate and averaging, as `config.train` says."""

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = {
  'adam': optax.scale_by_adam,
  'momentum': lambda: optax.trace(decay=0.9),
  'nesterov': lambda: optax.trace(decay=0.9, nesterov=True),
}
ANNEAL_TYPES = ('constant', 'linear')


def make_optimizer(train):
  """Returns the optax transformation from gradients to a descent direction.

  Clipping by global norm, then the optimizer, then decoupled weight decay; with
  the learning rate of `learning_rate` this is Adam, or AdamW where weight decay
  is not 0.

  Args:
    train: config.train.

  Raises:
    ValueError: the optimizer or the type of annealing is unknown.
  """
  if train.optimizer not in OPTIMIZERS:
    known = ', '.join(OPTIMIZERS)
    raise ValueError(f'unknown optimizer {train.optimizer!r}; known: {known}')
  if train.learning_rate_anneal_type not in ANNEAL_TYPES:
    raise ValueError(
      f'unknown learning_rate_anneal_type {train.learning_rate_anneal_type!r}; '
      f'known: {", ".join(ANNEAL_TYPES)}'
    )
  chain = [
    optax.clip_by_global_norm(train.grad_clip),
    OPTIMIZERS[train.optimizer](),
  ]
  if train.weight_decay:
    chain.append(optax.add_decayed_weights(train.weight_decay))
  return optax.chain(*chain)


def learning_rate(train, step, num_updates):
  """Returns the learning rate of update number `step` (from 0), float32.

  Linear warm-up over `learning_rate_warmup_steps` updates, times, for 'linear'
  annealing, a line from 1 to 0 over `learning_rate_anneal_steps` updates, or
  over all of this training where that is None.

  Args:
    train: config.train.
    step: int32 array.
    num_updates: int32 array, the length of this training.
  """
  rate = jnp.float32(train.learning_rate)
  done = step.astype(jnp.float32)
  if train.learning_rate_warmup_steps:
    rate *= jnp.minimum(1, (done + 1) / train.learning_rate_warmup_steps)
  if train.learning_rate_anneal_type == 'linear':
    length = train.learning_rate_anneal_steps
    length = num_updates if length is None else length
    rate *= jnp.maximum(0, 1 - done / jnp.asarray(length, jnp.float32))
  return rate


def update_average(ema_params, params, step, decay):
  """Returns the exponential moving average after update number `step`.

  The first update copies, so that the random initial parameters, which a decay
  of 0.9999 would remember for long, leave no trace.
  """
  decay = jnp.where(step == 0, 0, jnp.float32(decay))
  return jax.tree.map(
    lambda e, p: decay * e + (1 - decay) * p, ema_params, params
  )
