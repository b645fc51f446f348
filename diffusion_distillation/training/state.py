"""The state of a training."""

from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
  """The state of the training of one round.

  Attributes:
    step: updates made, int32.
    num_updates: length of the training, int32. It is an array, not a constant,
      so that rounds of different lengths share one compilation.
    params: parameters of the network, float32.
    ema_params: their exponential moving average (EMA), or None.
    target_params: another average, with which some objectives predict their
      targets, or None.
    opt_state: state of the optimizer.
  """

  step: jax.Array
  num_updates: jax.Array
  params: Any
  ema_params: Any
  target_params: Any
  opt_state: Any

  @property
  def weights(self):
    """The parameters to sample from and to distill: the EMA, if kept."""
    return self.params if self.ema_params is None else self.ema_params

  @property
  def target(self):
    """The parameters to predict targets with: their average, if kept."""
    return self.params if self.target_params is None else self.target_params


def create_state(
  params, optimizer, *, num_updates, ema_decay, has_target=False
):
  """Returns the state before the first update.

  Args:
    params: parameters to start from; they are copied.
    optimizer: an optax transformation.
    num_updates: length of the training, an int.
    ema_decay: 0 keeps no EMA.
    has_target: whether the weights of the target network are kept.
  """
  return TrainState(
    step=jnp.int32(0),
    num_updates=jnp.int32(num_updates),
    params=jax.tree.map(jnp.array, params),
    ema_params=jax.tree.map(jnp.array, params) if ema_decay else None,
    target_params=jax.tree.map(jnp.array, params) if has_target else None,
    opt_state=optimizer.init(params),
  )
