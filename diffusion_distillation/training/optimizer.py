"""Optimizer, learning rate and EMA, as `config.train` describes them."""

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = {
  'adam': optax.scale_by_adam,
  'radam': optax.scale_by_radam,
  'momentum': lambda: optax.trace(decay=0.9),
  'nesterov': lambda: optax.trace(decay=0.9, nesterov=True),
}
ANNEAL_TYPES = ('constant', 'linear')


def make_optimizer(train):
  """Returns the optax transformation from gradients to a descent direction.

  It clips by global norm, applies the optimizer, and then adds decoupled weight
  decay. Multiplied by `learning_rate`, this is Adam, or AdamW if the weight
  decay is not 0.

  Args:
    train: config.train.

  Raises:
    ValueError: the optimizer or the annealing type is unknown.
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

  It rises linearly over `learning_rate_warmup_steps` updates. If the annealing
  is 'linear', it is multiplied by a line from 1 to 0 over
  `learning_rate_anneal_steps` updates, or over this whole training if that is
  None.

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


def update_ema(ema_params, params, step, decay):
  """Returns the exponential moving average after update number `step`.

  The decay warms up as min(decay, (1 + step) / (10 + step)). With the full
  decay from the start the first parameters would dominate short trainings:
  after 300 updates at 0.999 they would have three quarters of the weight. With
  the warm-up the weight of the initial ones falls as 9! / step^9.

  Args:
    ema_params: the average so far; the initial parameters in update 0.
    params: the parameters after the update.
    step: int32 array, the number of the update, from 0.
    decay: float, the decay after the warm-up.
  """
  n = step.astype(jnp.float32)
  decay = jnp.minimum(jnp.float32(decay), (1 + n) / (10 + n))
  return _average(ema_params, params, decay)


def update_target(target_params, params, step, decay):
  """Returns the weights of the target network after update number `step`.

  They are an average from which the initial weights are divided out, as Adam
  does with its moments: after the first update it is the parameters themselves.

  Args:
    target_params: the average so far.
    params: the parameters after the update.
    step: int32 array, the number of the update, from 0.
    decay: float32 in [0, 1), the decay of the average.
  """
  n = step.astype(jnp.float32)
  decay = decay * (1 - decay**n) / (1 - decay ** (n + 1))
  return _average(target_params, params, decay)


def _average(average, params, decay):
  return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, average, params)
