"""What training changes."""

from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
  """The state of one training, the teacher's or a round's.

  Attributes:
    step: updates made, int32.
    num_updates: updates this training is to make, int32. It is an array, not a
      constant, so that rounds of different length share one compilation.
    params: of the network, float32.
    ema_params: their exponential moving average, or None.
    opt_state: of the optimizer.
  """

  step: jax.Array
  num_updates: jax.Array
  params: Any
  ema_params: Any
  opt_state: Any

  @property
  def weights(self):
    """The parameters to sample from and to distill: the average, if kept."""
    return self.params if self.ema_params is None else self.ema_params


def create_state(params, optimizer, *, num_updates, ema_decay):
  """Returns the state before the first update.

  Args:
    params: parameters to start from; they are copied.
    optimizer: an optax transformation.
    num_updates: int.
    ema_decay: 0 keeps no average.
  """
  return TrainState(
    step=jnp.int32(0),
    num_updates=jnp.int32(num_updates),
    params=jax.tree.map(jnp.array, params),
    ema_params=jax.tree.map(jnp.array, params) if ema_decay else None,
    opt_state=optimizer.init(params),
  )
