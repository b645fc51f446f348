import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.training.optimizer import (
  learning_rate,
  make_optimizer,
  update_ema,
)
from diffusion_distillation.training.state import create_state
from diffusion_distillation.training.step import gradient_update

PARAMS = {'a': jnp.array([1.0, -2.0]), 'b': jnp.array(0.5)}


def grads(step):
  return {'a': jnp.array([0.3, -0.1]) * (step + 1), 'b': jnp.array(-0.2)}


def rates(train, steps, num_updates=10):
  return [
    float(learning_rate(train, jnp.int32(s), jnp.int32(num_updates)))
    for s in steps
  ]


@pytest.mark.parametrize(
  ('optimizer', 'weight_decay', 'reference'),
  [
    ('adam', 0.0, optax.adam(0.1)),
    ('adam', 0.3, optax.adamw(0.1, weight_decay=0.3)),
    ('momentum', 0.0, optax.sgd(0.1, momentum=0.9)),
    ('nesterov', 0.0, optax.sgd(0.1, momentum=0.9, nesterov=True)),
  ],
)
def test_optimizers_are_those_of_optax(
  config, optimizer, weight_decay, reference
):
  config.train.update(
    optimizer=optimizer, weight_decay=weight_decay, grad_clip=float('inf')
  )
  ours = make_optimizer(config.train)
  params, state = PARAMS, ours.init(PARAMS)
  wanted, wanted_state = PARAMS, reference.init(PARAMS)
  for step in range(3):
    direction, state = ours.update(grads(step), state, params)
    params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
    updates, wanted_state = reference.update(grads(step), wanted_state, wanted)
    wanted = optax.apply_updates(wanted, updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, wanted
  )


def test_gradients_are_clipped_by_global_norm(config):
  config.train.update(optimizer='momentum', grad_clip=0.5)
  optimizer = make_optimizer(config.train)
  direction, _ = optimizer.update(
    {'a': jnp.array([3.0, 0.0]), 'b': jnp.array(4.0)},
    optimizer.init(PARAMS),
    PARAMS,
  )
  np.testing.assert_allclose(direction['a'], [0.3, 0], rtol=1e-6)
  np.testing.assert_allclose(direction['b'], 0.4, rtol=1e-6)


def test_the_warm_up_is_linear_and_reaches_the_rate(config):
  config.train.update(
    learning_rate=0.8,
    learning_rate_warmup_steps=4,
    learning_rate_anneal_type='constant',
  )
  got = rates(config.train, [0, 1, 3, 4, 9])
  np.testing.assert_allclose(got, [0.2, 0.4, 0.8, 0.8, 0.8], rtol=1e-6)


def test_linear_annealing_ends_at_0_with_the_round(config):
  config.train.update(learning_rate=0.8, learning_rate_anneal_type='linear')
  got = rates(config.train, [0, 5, 9, 10], num_updates=10)
  np.testing.assert_allclose(got, [0.8, 0.4, 0.08, 0], rtol=1e-5, atol=1e-8)
  got = rates(config.train, [5], num_updates=20)
  np.testing.assert_allclose(got, 0.6, rtol=1e-5)


def test_annealing_may_have_its_own_length(config):
  config.train.update(
    learning_rate=0.8,
    learning_rate_anneal_type='linear',
    learning_rate_anneal_steps=4,
  )
  np.testing.assert_allclose(rates(config.train, [1, 4, 9]), [0.6, 0, 0])


@functools.cache
def averages(decay, num_updates):
  """Returns the EMA after each update of 1 at first, and then of zeros."""

  def update(average, step):
    average = update_ema(average, jnp.float32(0), step, decay)
    return average, average

  steps = jnp.arange(num_updates, dtype=jnp.int32)
  return jax.jit(lambda: jax.lax.scan(update, jnp.float32(1), steps))()[1]


def test_initial_parameters_have_little_weight_after_a_short_training():
  # prod (1 + k) / (10 + k) over n updates is 9! n! / (n + 9)!
  got = averages(0.999, 300)
  for n in (1, 2, 10, 300):
    want = 1 / math.comb(n + 9, 9)
    np.testing.assert_allclose(got[n - 1], want, rtol=1e-4)
  # Without a warm-up it would be 0.74.
  assert got[299] < 1e-15


def test_the_decay_is_constant_after_the_warm_up():
  # (1 + n) / (10 + n) passes 0.9 at n = 80.
  got = np.asarray(averages(0.9, 100), np.float64)
  ratio = got[1:] / got[:-1]
  n = np.arange(1, 100)
  np.testing.assert_allclose(
    ratio[:80], (1 + n[:80]) / (10 + n[:80]), rtol=1e-5
  )
  np.testing.assert_allclose(ratio[80:], 0.9, rtol=1e-5)


def test_the_average_is_of_all_leaves():
  new = {'a': jnp.array([5.0, 5.0]), 'b': jnp.array(1.0)}
  got = update_ema(PARAMS, new, jnp.int32(0), 0.9)
  np.testing.assert_allclose(got['a'], [4.6, 4.3], rtol=1e-6)
  np.testing.assert_allclose(got['b'], 0.95, rtol=1e-6)


def test_the_average_of_a_short_training_is_better_than_its_weights(config):
  # A noisy descent from 10 to 0. Without the warm-up, three quarters of the
  # average would be the weights after the first update.
  config.train.update(
    optimizer='momentum',
    learning_rate=0.01,
    learning_rate_anneal_type='constant',
    grad_clip=1e9,
    ema_decay=0.999,
  )
  optimizer = make_optimizer(config.train)

  def loss_fn(params, targets):
    return jnp.sum((params['w'] - jnp.mean(targets, axis=0)) ** 2), {}

  def update(state, targets):
    return gradient_update(
      state, loss_fn, targets, optimizer=optimizer, train=config.train
    )

  def train(targets):
    params = {'w': jnp.full(16, 10.0)}
    state = create_state(params, optimizer, num_updates=300, ema_decay=0.999)
    return jax.lax.scan(update, state, targets)[0]

  targets = np.random.RandomState(0).standard_normal((1, 300, 1, 16))
  train = jax.jit(jax.vmap(train, axis_name='batch'))
  state = train(jnp.asarray(targets, jnp.float32))
  distance = {
    name: float(jnp.linalg.norm(params['w']))
    for name, params in (('raw', state.params), ('ema', state.ema_params))
  }
  assert 0.5 < distance['raw'] < 4  # it has arrived; what is left is noise
  assert distance['ema'] < distance['raw']


@pytest.mark.parametrize(
  ('key', 'known'),
  [
    ('optimizer', 'adam, momentum, nesterov'),
    ('learning_rate_anneal_type', 'constant, linear'),
  ],
)
def test_unknown_names_list_the_known_ones(config, key, known):
  config.train[key] = 'cosine'
  with pytest.raises(ValueError, match=known):
    make_optimizer(config.train)
