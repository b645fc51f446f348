"""The compiled steps, on one, two and four replicas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.objectives.denoising import make_train_step
from diffusion_distillation.objectives.progressive import make_distill_step
from diffusion_distillation.runtime import devices
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from tests.conftest import tiny_config

KEY = jax.random.key(5)


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


def linear_config():
  """Momentum, not Adam, which blows the rounding of small gradients up."""
  config = tiny_config()
  config.train.optimizer = config.teacher.train.optimizer = 'momentum'
  return config


@pytest.fixture(scope='module')
def train_step(denoiser):
  config = teacher_config(linear_config())
  return make_train_step(denoiser, make_optimizer(config.train), config), config


@pytest.fixture(scope='module')
def distill_step(denoiser):
  config = linear_config()
  step = make_distill_step(denoiser, make_optimizer(config.train), config)
  return step, config


@pytest.fixture(scope='module')
def compiled_distill(distill_step):
  step, _ = distill_step
  return devices.compile_step(step, in_axes=(0, 0, None, 0, None))


def other(params):
  return jax.tree.map(lambda p: p + np.float32(0.05) * np.sin(p), params)


def test_teacher_on_one_replica_equals_two_and_four(train_step, params):
  step, config = train_step
  results = []
  for parts in (1, 2, 4):
    # vmap over a named axis is what pmap does, on one device.
    replicated = jax.jit(jax.vmap(step, (None, 0, None), axis_name='batch'))
    state = start(params, config)
    for i in range(2):
      state, metrics = replicated(state, split(batch(seed=i), parts), KEY)
      state, metrics = jax.tree.map(lambda a: a[0], (state, metrics))
    # The clip is active: that is where per-replica clipping would show.
    assert metrics['grad_norm'] > config.train.grad_clip
    results.append((state.params, metrics))
  for several in results[1:]:
    chex.assert_trees_all_close(results[0], several, rtol=1e-4, atol=1e-6)


def test_student_on_one_replica_equals_four_devices(
  distill_step, compiled_distill, params
):
  step, config = distill_step
  assert jax.device_count() == 4
  state = devices.replicate(start(params, config))
  teacher = devices.replicate(other(params))
  state, metrics = compiled_distill(
    state, teacher, jnp.int32(4), devices.shard([batch()]), KEY
  )
  one = jax.jit(jax.vmap(step, (None, None, None, 0, None), axis_name='batch'))
  want, want_metrics = one(
    start(params, config), other(params), jnp.int32(4), split(batch(), 1), KEY
  )
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
    # The learning rate anneals over this round's own length.
    rate = config.train.learning_rate * (1 - 1 / num_updates)
    np.testing.assert_allclose(metrics['learning_rate'][0, 0], rate, rtol=1e-5)
  assert len(set(losses)) == 3
  # Whichever test came first may have compiled it; nothing compiles it twice.
  assert devices.compilations['distill_step'] - before <= 1
  assert devices.compilations['distill_step'] == 1


@pytest.mark.parametrize('make', ['teacher', 'student'])
def test_weighting_and_schedule_are_the_config_s(make):
  """The loss of w z with w = 0 is the weight's mean times that of x^2."""

  def loss(**changes):
    config = tiny_config()
    config.model.update(changes)
    if make == 'teacher':
      config = teacher_config(config)
      step = make_train_step(Spy(), optax.identity(), config)
      axes, args = (None, 0, None), ()
    else:
      step = make_distill_step(Spy(), optax.identity(), config)
      teacher = {'teacher': jnp.float32(0.5)}
      axes, args = (None, None, None, 0, None), (teacher, jnp.int32(4))
    state = create_state(
      {'w': jnp.float32(0)}, optax.identity(), num_updates=1, ema_decay=0.0
    )
    replicated = jax.vmap(step, axes, axis_name='batch')
    _, metrics = replicated(state, *args, split(batch(), 1), KEY)
    return float(metrics['loss'][0])

  names = ('constant', 'snr', 'snr_trunc', 'v_mse')
  constant, snr, snr_trunc, v_mse = (
    loss(mean_loss_weight_type=name) for name in names
  )
  np.testing.assert_allclose(v_mse, constant + snr, rtol=1e-4)
  assert max(constant, snr) < snr_trunc < v_mse
  narrow = {'name': 'cosine', 'logsnr_min': -20.0, 'logsnr_max': 0.0}
  assert loss(train_logsnr_schedule=narrow) != snr_trunc


def test_the_average_follows_the_parameters():
  # e_1 = p_1, then e_n = d e_{n-1} + (1 - d) p_n.
  config = tiny_config()
  config.train.update(ema_decay=0.5, learning_rate=0.1, grad_clip=1.0)
  step = make_distill_step(Spy(), make_optimizer(config.train), config)
  state = start({'w': jnp.float32(0.9)}, config)
  replicated = jax.vmap(step, (None, None, None, 0, None), axis_name='batch')
  teacher, average = {'teacher': jnp.float32(0.1)}, None
  for i in range(3):
    state, _ = replicated(
      state, teacher, jnp.int32(4), split(batch(seed=i), 1), KEY
    )
    state = jax.tree.map(lambda a: a[0], state)
    w = float(state.params['w'])
    average = w if average is None else 0.5 * average + 0.5 * w
    np.testing.assert_allclose(state.ema_params['w'], average, rtol=1e-5)
    assert state.weights is state.ema_params
  assert abs(average - w) > 1e-3


class Spy:
  """A denoiser x_hat = w z, whose teacher must not be differentiated."""

  def __init__(self):
    self.teacher_calls, self.predictions = 0, []

  def bind(self, params, labels, dropout_keys=None):
    del labels, dropout_keys
    if 'teacher' not in params:
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


def toy_distill(teacher_w, student_w, num_steps):
  """Returns one toy update's loss and the student's gradient."""
  config, spy = tiny_config(), Spy()
  config.model.mean_loss_weight_type = 'constant'
  config.train.learning_rate = 1.0
  step = make_distill_step(spy, optax.identity(), config)
  state = create_state(
    {'w': jnp.float32(student_w)},
    optax.identity(),
    num_updates=1,
    ema_decay=0.0,
  )
  teacher = {'teacher': jnp.float32(teacher_w)}
  replicated = jax.vmap(step, (None, None, None, 0, None), axis_name='batch')
  new, metrics = replicated(
    state, teacher, jnp.int32(num_steps), split(batch(), 1), KEY
  )
  assert spy.teacher_calls == 2
  return float(metrics['loss'][0]), student_w - float(new.params['w'][0])


def test_the_teacher_makes_the_target_and_gets_no_gradient():
  # With a teacher that always says 0 the target is 0, so the loss is
  # w^2 mean(z^2) and its gradient 2 w mean(z^2).
  loss, gradient = toy_distill(0.0, 0.5, 4)
  np.testing.assert_allclose(gradient, 2 * loss / 0.5, rtol=1e-5)


def test_the_target_is_not_clipped():
  # In one step to data the target is the teacher's second prediction: a teacher
  # 1000 z is far outside [-1, 1], and a loss of a clipped target below 25.
  loss, _ = toy_distill(1000.0, 0.0, 1)
  assert loss > 1e4


def test_several_updates_in_one_call_equal_the_same_one_by_one(params):
  config, spy = tiny_config(), Spy()
  step = make_distill_step(spy, make_optimizer(config.train), config)
  compiled = devices.compile_step(step, in_axes=(0, 0, None, 0, None))
  teacher = devices.replicate({'teacher': jnp.float32(0.3)})
  taken = [batch(seed=i) for i in range(3)]

  def run(calls):
    state = devices.replicate(start({'w': jnp.float32(0.9)}, config))
    metrics = []
    for some in calls:
      state, m = compiled(
        state, teacher, jnp.int32(4), devices.shard(some), KEY
      )
      metrics += np.asarray(m['loss'])[0].tolist()
    return devices.unreplicate(state), metrics

  together, losses = run([taken])
  alone, want = run([[b] for b in taken])
  assert together.step == alone.step == 3
  np.testing.assert_allclose(losses, want, rtol=1e-5)
  chex.assert_trees_all_close(together.params, alone.params, rtol=1e-5)


@pytest.mark.parametrize('num_steps', [0, 1])
def test_the_teacher_s_times(num_steps):
  # With one discrete time, t = 1: all of z is noise, and x_hat = w z cannot
  # see the image; in continuous time the loss is far smaller.
  config, spy = teacher_config(tiny_config()), Spy()
  with config.unlocked():
    config.model.train_num_steps = num_steps
    config.model.mean_loss_weight_type = 'constant'
  step = make_train_step(spy, optax.identity(), config)
  state = start({'w': jnp.float32(0.0)}, config)
  state = state.replace(opt_state=optax.identity().init(state.params))
  replicated = jax.vmap(step, (None, 0, None), axis_name='batch')
  white = {'image': np.full((16, 8, 8, 1), 255, np.uint8)}
  white['label'] = np.zeros(16, np.int32)
  _, metrics = replicated(state, split(white, 1), KEY)
  # x_hat = 0 and x = 1. The gradient is -2 mean(x z): 0 where z is noise alone.
  np.testing.assert_allclose(metrics['loss'], 1, rtol=1e-6)
  gradient = -float(metrics['grad_norm'][0])
  if num_steps == 1:
    assert abs(gradient) < 2 * 5 / np.sqrt(16 * 64)
  else:
    assert abs(gradient) > 0.7


def test_a_replica_s_keys_are_its_place_in_the_global_batch():
  def keys(parts, step=3, purpose=0):
    data = jax.vmap(
      lambda _: jax.random.key_data(
        step.example_keys(KEY, jnp.int32(step), 8 // parts)[purpose]
      ),
      axis_name='batch',
    )(jnp.arange(parts))
    return np.asarray(data).reshape(8, -1)

  np.testing.assert_array_equal(keys(1), keys(4))
  every = [keys(1, step, purpose) for step in (3, 4) for purpose in range(3)]
  assert len(np.unique(np.concatenate(every), axis=0)) == 8 * 6
