"""The compiled steps, on one replica and on four."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.objectives import Objective
from diffusion_distillation.runtime import devices
from diffusion_distillation.training import step as steps
from diffusion_distillation.training.config import trainings
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from tests.conftest import tiny_config

KEY = jax.random.key(5)
IN_AXES = (None, None, None, 0, None)


def batch(size=16, seed=0):
  rng = np.random.RandomState(seed)
  return {
    'image': rng.randint(0, 256, (size, 8, 8, 1)).astype(np.uint8),
    'label': (np.arange(size) % 10).astype(np.int32),
  }


def split(tree, parts):
  return jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), tree)


def start(params, config, num_updates=10):
  return create_state(
    params,
    make_optimizer(config.train),
    num_updates=num_updates,
    ema_decay=config.train.ema_decay,
  )


def make(kind, denoiser, config=None):
  """Returns the step of the teacher or of the students, and its config."""
  config = config or tiny_config()
  training = trainings(config)[{'train_step': 0, 'distill_step': 1}[kind]]
  train = training.config.train
  step = steps.make_step(
    kind, training.objective, denoiser, make_optimizer(train), train
  )
  return step, training.config


def linear_config():
  """Momentum, since Adam magnifies the rounding of small gradients."""
  config = tiny_config()
  for train in (config.train, config.teacher.train):
    train.update(optimizer='momentum', grad_clip=0.1)
  return config


def on_one_device(step):
  """Returns a step compiled for replicas on one device, as pmap would."""
  return jax.jit(jax.vmap(step, IN_AXES, axis_name='batch'))


@pytest.fixture(scope='module')
def distill_step(denoiser):
  return make('distill_step', denoiser, linear_config())


@pytest.fixture(scope='module')
def compiled_distill(distill_step):
  step, _ = distill_step
  return devices.compile_step(step, in_axes=(0, 0, None, 0, None))


def test_a_loss_may_differentiate_kernels_that_cannot():
  """The fused norm has no forward-mode derivative; its plain form is used."""
  config = tiny_config()
  args = {'ch': 8, 'emb_ch': 16, 'ch_mult': (1,), 'num_res_blocks': 1}
  args |= {'attn_resolutions': (), 'dropout': 0.1, 'norm': 'fused'}
  with config.unlocked():
    config.teacher.objective = 'sliced_score_matching'
    config.model.name, config.model.args = 'unet_iddpm', ConfigDict(args)
  denoiser = build_denoiser(config.model, (8, 8, 1), 10)
  assert denoiser.plain().network == denoiser.network.clone(norm='flax')
  step, config = make('train_step', denoiser, config)
  params = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape), denoiser.param_shapes()
  )
  _, metrics = jax.eval_shape(
    jax.vmap(step, IN_AXES, axis_name='batch'),
    start(params, config),
    None,
    jnp.int32(4),
    split(batch(2), 1),
    KEY,
  )
  assert metrics['loss'].shape == (1,)


def other(params):
  return jax.tree.map(lambda p: p + np.float32(0.05) * np.sin(p), params)


def test_one_replica_equals_four_devices(
  distill_step, compiled_distill, params
):
  step, config = distill_step
  assert jax.device_count() == 4
  state = devices.replicate(start(params, config))
  teacher = devices.replicate(other(params))
  state, metrics = compiled_distill(
    state, teacher, jnp.int32(4), devices.shard([batch()]), KEY
  )
  want, want_metrics = on_one_device(step)(
    start(params, config), other(params), jnp.int32(4), split(batch(), 1), KEY
  )
  # The clip is active: clipping on each replica would show there.
  assert metrics['grad_norm'][0, 0] > config.train.grad_clip
  np.testing.assert_allclose(
    metrics['loss'][:, 0], np.repeat(want_metrics['loss'], 4), rtol=1e-4
  )
  chex.assert_trees_all_close(
    devices.unreplicate(state).params,
    jax.tree.map(lambda a: a[0], want.params),
    rtol=1e-4,
    atol=1e-6,
  )


def test_one_compilation_serves_all_rounds_and_lengths(
  distill_step, compiled_distill, params
):
  _, config = distill_step
  before = devices.compilations['distill_step']
  losses = []
  for num_steps, num_updates in ((4, 10), (2, 7), (1, 3)):
    state = devices.replicate(start(params, config, num_updates))
    teacher = devices.replicate(other(params))
    for _ in range(2):
      state, metrics = compiled_distill(
        state, teacher, jnp.int32(num_steps), devices.shard([batch()]), KEY
      )
    losses.append(float(metrics['loss'][0, 0]))
    # The learning rate anneals over the length of this round.
    rate = config.train.learning_rate * (1 - 1 / num_updates)
    np.testing.assert_allclose(metrics['learning_rate'][0, 0], rate, rtol=1e-5)
  assert len(set(losses)) == 3
  # An earlier test may have compiled it; nothing compiles it twice.
  assert devices.compilations['distill_step'] - before <= 1
  assert devices.compilations['distill_step'] == 1


def test_the_average_follows_the_parameters():
  # e_0 = p_0 and e_n = d_n e_{n-1} + (1 - d_n) p_n; d_n is 1/10, 2/11, 1/4 in
  # the warm-up, and never above the decay.
  config = tiny_config()
  config.train.update(ema_decay=0.2, learning_rate=0.1, grad_clip=1.0)
  state = start({'w': jnp.float32(0.9)}, config)
  compiled, average = on_one_device(make_simple(config)), 0.9
  for i, decay in enumerate((1 / 10, 2 / 11, 0.2)):
    state, _ = compiled(state, None, jnp.int32(4), split(batch(seed=i), 1), KEY)
    state = jax.tree.map(lambda a: a[0], state)
    w = float(state.params['w'])
    average = decay * average + (1 - decay) * w
    np.testing.assert_allclose(state.ema_params['w'], average, rtol=1e-5)
    assert state.weights is state.ema_params
  assert abs(average - w) > 1e-3


class Spy:
  """A denoiser x_hat = w z, whose teacher must not be differentiated."""

  def __init__(self):
    self.teacher_calls = 0

  def bind(self, params, condition, dropout_keys=None):
    del condition, dropout_keys
    if params is None or 'teacher' not in params:
      return lambda z, logsnr: params['w'] * z

    @jax.custom_jvp
    def forbidden(w, z):
      return w * z

    @forbidden.defjvp
    def _(primals, tangents):
      raise AssertionError('a gradient reaches the teacher')

    def denoise(z, logsnr):
      self.teacher_calls += 1
      return forbidden(params['teacher'], z)

    return denoise


def make_simple(config):
  """Returns the step of a loss without noise, which compiles fast."""

  def loss(inputs):
    x_hat = inputs.student(inputs.x, jnp.zeros(len(inputs.x)))
    return jnp.mean((x_hat - inputs.x) ** 2, (1, 2, 3))

  return steps.make_step(
    'step',
    Objective(loss, (), needs_teacher=False),
    Spy(),
    make_optimizer(config.train),
    config.train,
  )


def test_the_teacher_gets_no_gradient():
  # If the teacher always predicts 0, the target is 0, so the loss is
  # w^2 mean(z^2) and its gradient 2 w mean(z^2).
  config, spy = tiny_config(), Spy()
  config.model.mean_loss_weight_type = 'constant'
  config.train.update(learning_rate=1.0, optimizer='momentum', grad_clip=1e9)
  step, config = make('distill_step', spy, config)
  state = start({'w': jnp.float32(0.5)}, config)
  new, metrics = on_one_device(step)(
    state, {'teacher': jnp.float32(0)}, jnp.int32(4), split(batch(), 1), KEY
  )
  assert spy.teacher_calls == 2
  gradient = 0.5 - float(new.params['w'][0])
  np.testing.assert_allclose(
    gradient, 2 * float(metrics['loss'][0]) / 0.5, rtol=1e-5
  )


def test_a_loss_gets_its_inputs():
  # The target has no gradient; progress is a part of the length; what the batch
  # has beside images and seeds is the condition; no teacher is None.
  class Labelled:
    def bind(self, params, condition, dropout_keys=None):
      assert condition.keys() == {'label'}
      return lambda z, logsnr: params['w'] * z + condition['label']

  def loss(inputs):
    assert inputs.teacher is None
    x, logsnr = inputs.x, jnp.zeros(len(inputs.x))
    assert inputs.noise.shape == x.shape
    product = inputs.target(x, logsnr) * inputs.student(x, logsnr)
    return (product + x + inputs.progress)[:, 0, 0, 0]

  config = tiny_config()
  config.train.update(learning_rate=1.0)
  objective = Objective(
    loss, (), needs_teacher=False, target_decay=lambda progress: progress
  )
  step = steps.make_step(
    'step', objective, Labelled(), optax.identity(), config.train
  )
  state = create_state(
    {'w': jnp.float32(2)},
    optax.identity(),
    num_updates=8,
    ema_decay=0,
    has_target=True,
  )
  state = state.replace(step=jnp.int32(2), target_params={'w': jnp.float32(3)})
  images = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1, 1)
  labels = np.array([1, 2, 4], np.int32).reshape(1, 3, 1, 1, 1)
  given = {'image': images, 'label': labels, 'seed': np.uint32([[1, 2, 4]])}
  state, metrics = on_one_device(step)(state, None, jnp.int32(1), given, KEY)
  x, label = np.array([-1, -0.6, 1]), np.ravel(labels)
  target, student = 3 * x + label, 2 * x + label
  want = np.mean(target * student + x) + 2 / 8
  np.testing.assert_allclose(metrics['loss'][0], want, rtol=1e-6)
  gradient = np.mean(target * x)
  np.testing.assert_allclose(metrics['grad_norm'][0], gradient, rtol=1e-6)
  # After 2 of 8 updates the decay is 1/4; of the 3 updates' average
  # (1 - d^2) / (1 - d^3) d is the old one.
  w, kept = state.params['w'], 1 / 4 * (1 - 1 / 16) / (1 - 1 / 64)
  np.testing.assert_allclose(
    state.target_params['w'], kept * 3 + (1 - kept) * w, rtol=1e-6
  )


def test_dropout_is_active_in_the_student_alone():
  # The target is the student itself, with the same masks.
  bound = {'w': [], 'teacher': []}

  class Recorder:
    def bind(self, params, condition, dropout_keys=None):
      (name,) = params
      bound[name].append(dropout_keys)
      return lambda z, logsnr: params[name] * z

  step, config = make('distill_step', Recorder())
  state = start({'w': jnp.float32(1)}, config)
  replicated = jax.vmap(step, IN_AXES, axis_name='batch')
  jax.eval_shape(
    lambda teacher: replicated(
      state, teacher, jnp.int32(4), split(batch(), 1), KEY
    ),
    {'teacher': jnp.float32(1)},
  )
  assert bound['teacher'] == [None]
  student, target = bound['w']
  assert student is target and student.shape == (16,)


def test_several_updates_in_one_call_equal_the_same_one_by_one():
  config = tiny_config()
  step = make_simple(config)
  compiled = devices.compile_step(step, in_axes=(0, 0, None, 0, None))
  taken = [batch(seed=i) for i in range(3)]

  def run(calls):
    state = devices.replicate(start({'w': jnp.float32(0.9)}, config))
    losses = []
    for some in calls:
      state, metrics = compiled(
        state, None, jnp.int32(4), devices.shard(some), KEY
      )
      losses += np.asarray(metrics['loss'])[0].tolist()
    return devices.unreplicate(state), losses

  together, losses = run([taken])
  alone, want = run([[b] for b in taken])
  assert together.step == alone.step == 3
  np.testing.assert_allclose(losses, want, rtol=1e-5)
  assert len(set(losses)) == 3
  chex.assert_trees_all_close(together.params, alone.params, rtol=1e-5)


def test_keys_depend_on_the_place_in_the_global_batch():
  @functools.partial(jax.jit, static_argnums=0)
  def keys(parts, step):
    """Returns the data of the keys, (purposes, examples, 2)."""
    found = jax.vmap(
      lambda _: jax.random.key_data(
        jnp.stack(steps.example_keys(KEY, step, 8 // parts))
      ),
      axis_name='batch',
      out_axes=1,
    )(jnp.arange(parts))
    return found.reshape(3, 8, -1)

  np.testing.assert_array_equal(keys(1, 3), keys(4, 3))
  every = np.concatenate([keys(1, 3), keys(1, 4)]).reshape(-1, 2)
  assert len(np.unique(every, axis=0)) == 2 * 3 * 8
