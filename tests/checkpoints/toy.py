"""A card of a tiny network, and states of its training, made by NumPy alone."""

import jax
import numpy as np
import optax

from diffusion_distillation.checkpoints.card import Card
from diffusion_distillation.training.state import create_state

CARD = Card(
  num_steps=4,
  sampler='ddim',
  model={'name': 'mlp', 'mean_type': 'v', 'args': {'width': 32, 'depth': 1}},
  logsnr_schedule={'name': 'cosine'},
  clip=True,
  image_shape=(4, 4, 1),
  num_classes=3,
  dataset={'name': 'digits', 'args': {}},
  objective='progressive',
  parent='/runs/teacher',
  parent_checksum='12ab',
  updates=3,
  num_updates=9,
  config={'model': {}, 'eval': {}},
  versions={'jax': '0.10'},
)


def make_weights(seed=0):
  """Returns random weights of the network of CARD."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: rng.standard_normal(shape.shape).astype(np.float32),
    CARD.denoiser().param_shapes(),
  )


def make_state(step, ema_decay=0.9):
  """Returns a TrainState of host arrays, which depend on the step."""
  state = create_state(
    make_weights(step), optax.adam(0.1), num_updates=9, ema_decay=ema_decay
  )
  state = state.replace(step=np.int32(step))
  if ema_decay:
    state = state.replace(ema_params=make_weights(100 + step))
  return jax.tree.map(np.asarray, state)


def card_at(step):
  """Returns the Card of `make_state(step)`."""
  return CARD.replace(updates=step)


def assert_same(tree, other):
  """Asserts that two trees have the same structure and the same bits."""
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, tree, other)
