import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.training.optimizer import (
  learning_rate,
  make_optimizer,
  update_average,
)

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
def test_optimizers_are_optax_s(config, optimizer, weight_decay, reference):
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


def test_warm_up_is_linear_and_reaches_the_rate(config):
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


def test_the_average_copies_first():
  new = {'a': jnp.array([5.0, 5.0]), 'b': jnp.array(1.0)}
  first = update_average(PARAMS, new, jnp.int32(0), 0.9)
  np.testing.assert_array_equal(first['a'], new['a'])
  later = update_average(PARAMS, new, jnp.int32(1), 0.9)
  np.testing.assert_allclose(later['a'], [1.4, -1.3], rtol=1e-6)


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
