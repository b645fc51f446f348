"""Gradients of a batch in parts are those of the batch."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.networks import layers
from diffusion_distillation.objectives.denoising import make_train_step
from diffusion_distillation.objectives.progressive import make_distill_step
from diffusion_distillation.training import step
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from tests.conftest import tiny_config
from tests.networks.test_unet import QUICK
from tests.training.test_steps import KEY, batch, split


class Toy:
  """A denoiser with classes and dropout, and nothing slow to compile."""

  def bind(self, params, labels, dropout_keys=None):
    def denoise(z, logsnr):
      h = z.reshape(len(z), -1) @ params['w1'] + params['classes'][labels]
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


def make(who, denoiser, parts):
  """Returns step(state, batch) of one replica or more, and its first state."""
  config = tiny_config()
  if who == 'teacher':
    config = teacher_config(config)
  # The update is then the gradient itself, clipped to norm 1.
  config.train.update(
    accumulate=parts,
    optimizer='momentum',
    learning_rate=1.0,
    learning_rate_warmup_steps=0,
    weight_decay=0.0,
  )
  optimizer = make_optimizer(config.train)
  if who == 'teacher':
    step = make_train_step(denoiser, optimizer, config)
    axes, fixed = (None, 0, None), ()
  else:
    step = make_distill_step(denoiser, optimizer, config)
    axes, fixed = (None, None, None, 0, None), (toy_params(1), jnp.int32(4))
  replicated = jax.vmap(step, axes, axis_name='batch')
  state = create_state(
    toy_params(), optimizer, num_updates=10, ema_decay=config.train.ema_decay
  )
  return lambda state, batch: replicated(state, *fixed, batch, KEY), state


def run(who, parts, devices):
  """Returns parameters and metrics after one update of a batch of 16."""
  step, state = make(who, Toy(), parts)
  step = jax.jit(step, compiler_options=QUICK)
  after, metrics = step(state, split(batch(), devices))
  return jax.tree.map(lambda leaf: leaf[0], (after.params, metrics))


@functools.cache
def whole(who):
  return run(who, 1, 1)


# The form depends on the backend: on CPU the loop is unrolled.
@pytest.mark.parametrize(
  ('backend', 'parts', 'devices'), [('cpu', 2, 4), ('gpu', 4, 1)]
)
@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_parts_make_no_difference(monkeypatch, who, backend, parts, devices):
  want, metrics = whole(who)
  assert metrics['grad_norm'] > 1.5  # the clip is active
  moved = jax.tree.map(lambda p, q: p - q, want, toy_params())
  np.testing.assert_allclose(optax.tree.norm(moved), 1, rtol=1e-5)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  params, got = run(who, parts, devices)
  # Sums of 16 examples x 64 pixels in another order, of gradients of norm 1.
  tolerance = 1024**0.5 * 2.0**-24
  chex.assert_trees_all_close(params, want, rtol=0, atol=tolerance)
  chex.assert_trees_all_close(got, metrics, rtol=4 * tolerance)


def test_the_clip_is_that_of_the_whole_batch():
  # Gradients (10, 0) and (0, 1) of two parts: their mean is clipped, which is
  # (10, 1) / sqrt(101); clipped one by one they would give (1, 1) / 2.
  config = tiny_config()
  config.train.update(accumulate=2, optimizer='momentum', learning_rate=1.0)
  optimizer = make_optimizer(config.train)
  state = create_state(
    {'w': jnp.zeros(2)}, optimizer, num_updates=9, ema_decay=0.0
  )
  examples = jnp.array([[10.0, 0.0], [10.0, 0.0], [0.0, 1.0], [0.0, 1.0]])

  def step(examples):
    return step.gradient_update(
      state,
      lambda params, x: jnp.mean(x @ params['w']),
      examples,
      optimizer=optimizer,
      train=config.train,
    )

  after, _ = jax.vmap(step, axis_name='batch')(examples[None])
  want = np.array([10, 1]) / 101**0.5
  np.testing.assert_allclose(-after.params['w'][0], want, rtol=1e-6)


@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_a_loop_is_there_only_where_it_is_to_be(monkeypatch, who):
  def unrolled(parts, backend):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    step, state = make(who, Toy(), parts)
    jaxpr = str(jax.make_jaxpr(step)(state, split(batch(), 1)))
    return [int(n) for n in re.findall(r'unroll=(\d+)', jaxpr)]

  assert unrolled(1, 'cpu') == unrolled(1, 'gpu') == []
  assert unrolled(4, 'cpu') == [4]
  assert unrolled(4, 'gpu') == [1]


def test_the_memory_is_that_of_a_part(monkeypatch):
  params = {'a': jax.ShapeDtypeStruct((16, 16), jnp.float32)}
  x = jax.ShapeDtypeStruct((4096, 16), jnp.float32)

  def loss_fn(params, x):
    return jnp.mean(jnp.tanh(jnp.tanh(x @ params['a']) @ params['a']))

  def compiled(parts):
    function = jax.jit(
      lambda params, x: step.mean_gradient(loss_fn, params, x, parts)
    )
    return function.lower(params, x).compile()

  def memory(parts):
    return compiled(parts).memory_analysis().temp_size_in_bytes

  assert ' while(' not in compiled(8).as_text()
  whole = memory(1)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert ' while(' in compiled(8).as_text()
  assert memory(8) < whole / 4
