"""A batch has the same gradient whole, in parts, and on replicas."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.networks import layers
from diffusion_distillation.training import step as steps
from diffusion_distillation.training.config import trainings
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from tests.conftest import tiny_config
from tests.training.test_steps import IN_AXES, KEY, batch, split


class Toy:
  """A denoiser with classes and dropout that compiles fast."""

  def bind(self, params, condition, dropout_keys=None):
    def denoise(z, logsnr):
      h = z.reshape(len(z), -1) @ params['w1']
      h = h + params['classes'][condition['label']]
      h = jnp.tanh(h + logsnr[:, None] / 20)
      h = layers.dropout(h, 0.5, dropout_keys)
      return (h @ params['w2']).reshape(z.shape)

    return denoise


def toy_params(seed=0):
  rng = np.random.RandomState(seed)
  shapes = {'w1': (64, 32), 'classes': (10, 32), 'w2': (32, 64)}
  return {
    name: jnp.asarray(rng.standard_normal(shape) / 5, jnp.float32)
    for name, shape in shapes.items()
  }


def make(name, parts):
  """Returns step(state, batch) of one replica or more, and its first state."""
  config = tiny_config()
  # The update is then the gradient itself, clipped to norm 1.
  for train in (config.train, config.teacher.train):
    train.update(
      accumulate=parts,
      optimizer='momentum',
      learning_rate=1.0,
      learning_rate_warmup_steps=0,
      weight_decay=0.0,
    )
  (training,) = (t for t in trainings(config) if t.step_name == name)
  train = training.config.train
  optimizer = make_optimizer(train)
  step = steps.make_step(name, training.objective, Toy(), optimizer, train)
  replicated = jax.vmap(step, IN_AXES, axis_name='batch')
  teacher = toy_params(1) if training.objective.needs_teacher else None
  state = create_state(
    toy_params(), optimizer, num_updates=10, ema_decay=train.ema_decay
  )
  return (
    lambda state, batch: replicated(state, teacher, jnp.int32(4), batch, KEY),
    state,
  )


def run(parts, devices):
  """Returns parameters and metrics after one update of a batch of 16."""
  step, state = make('train_step', parts)
  after, metrics = jax.jit(step)(state, split(batch(), devices))
  return jax.tree.map(lambda leaf: leaf[0], (after.params, metrics))


@functools.cache
def whole():
  return run(1, 1)


# The loop is unrolled on CPU, see `mean_gradient`.
@pytest.mark.parametrize(
  ('backend', 'parts', 'devices'), [('cpu', 2, 4), ('gpu', 4, 1)]
)
def test_parts_and_replicas_make_no_difference(
  monkeypatch, backend, parts, devices
):
  want, metrics = whole()
  assert metrics['grad_norm'] > 1.5  # the clip is active
  moved = jax.tree.map(lambda p, q: p - q, want, toy_params())
  np.testing.assert_allclose(optax.tree.norm(moved), 1, rtol=1e-5)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  params, got = run(parts, devices)
  # Sums of 16 examples x 64 pixels in another order, of gradients of norm 1.
  tolerance = 1024**0.5 * 2.0**-24
  chex.assert_trees_all_close(params, want, rtol=0, atol=tolerance)
  chex.assert_trees_all_close(got, metrics, rtol=4 * tolerance)


@pytest.mark.parametrize(('parts', 'devices'), [(1, 2), (2, 1)])
def test_the_clip_is_that_of_the_whole_batch(parts, devices):
  # Gradients (10, 0) and (0, 1) of two parts: their mean is clipped, which is
  # (10, 1) / sqrt(101); clipped one by one they would give (1, 1) / 2.
  config = tiny_config()
  config.train.update(accumulate=parts, optimizer='momentum', learning_rate=1.0)
  optimizer = make_optimizer(config.train)
  state = create_state(
    {'w': jnp.zeros(2)}, optimizer, num_updates=9, ema_decay=0.0
  )
  # The learning rate has fallen to two thirds.
  state = state.replace(step=jnp.int32(3))
  examples = jnp.array([[10.0, 0.0], [10.0, 0.0], [0.0, 1.0], [0.0, 1.0]])

  def update(examples):
    return steps.gradient_update(
      state,
      lambda params, x: (jnp.mean(x @ params['w']), {}),
      examples,
      optimizer=optimizer,
      train=config.train,
    )

  update = jax.jit(jax.vmap(update, axis_name='batch'))
  after, metrics = update(split(examples, devices))
  want = np.array([10, 1]) / 101**0.5
  for w in after.params['w']:
    np.testing.assert_allclose(-w, 2 / 3 * want, rtol=1e-6)
  np.testing.assert_allclose(metrics['learning_rate'], 2 / 3, rtol=1e-6)
  # The norm before the clip is logged.
  np.testing.assert_allclose(metrics['grad_norm'], 101**0.5 / 2, rtol=1e-6)


@pytest.mark.parametrize('name', ['train_step', 'distill_step'])
def test_there_is_a_loop_only_where_it_saves_memory(monkeypatch, name):
  def unrolled(parts, backend):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    step, state = make(name, parts)
    jaxpr = str(jax.make_jaxpr(step)(state, split(batch(), 1)))
    return [int(n) for n in re.findall(r'unroll=(\d+)', jaxpr)]

  assert unrolled(1, 'cpu') == unrolled(1, 'gpu') == []
  assert unrolled(4, 'cpu') == [4]
  assert unrolled(4, 'gpu') == [1]


def test_the_memory_is_that_of_a_part(monkeypatch):
  params = {'a': jax.ShapeDtypeStruct((16, 16), jnp.float32)}
  x = jax.ShapeDtypeStruct((4096, 16), jnp.float32)

  def loss_fn(params, x):
    return jnp.mean(jnp.tanh(jnp.tanh(x @ params['a']) @ params['a'])), {}

  def compiled(parts):
    function = jax.jit(
      lambda params, x: steps.mean_gradient(loss_fn, params, x, parts)
    )
    return function.lower(params, x).compile()

  def memory(program):
    return program.memory_analysis().temp_size_in_bytes

  assert ' while(' not in compiled(8).as_text()
  whole = memory(compiled(1))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  parts = compiled(8)
  assert ' while(' in parts.as_text()
  assert memory(parts) < whole / 4
