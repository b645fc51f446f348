"""Only the network computes in bfloat16, and everything else in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules, targets
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.training.config import trainings
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from diffusion_distillation.training.step import make_step
from tests.conftest import tiny_config
from tests.core.test_schedules import cosine64
from tests.training.test_steps import IN_AXES, KEY, batch, split

STEPS = 4096


def build(dtype, **args):
  """Returns the tiny config and denoiser, which compute in that type."""
  config = tiny_config()
  for key, value in {'dtype': dtype, **args}.items():
    config.model.args[key] = value
  return config, build_denoiser(config.model, (8, 8, 1), 10)


@pytest.mark.parametrize('name', ['train_step', 'distill_step'])
def test_the_state_and_the_metrics_are_float32(name):
  config, denoiser = build('bfloat16', dropout=0.1)
  (training,) = (t for t in trainings(config) if t.step_name == name)
  train = training.config.train
  optimizer = make_optimizer(train)
  step = make_step(name, training.objective, denoiser, optimizer, train)
  params = denoiser.param_shapes()
  teacher = params if training.objective.needs_teacher else None

  def after(params, teacher):
    state = create_state(params, optimizer, num_updates=9, ema_decay=0.9)
    replicated = jax.vmap(step, IN_AXES, axis_name='batch')
    steps = jnp.int32(STEPS)
    return replicated(state, teacher, steps, split(batch(), 1), KEY)

  leaves = jax.tree.leaves(jax.eval_shape(after, params, teacher))
  types = [leaf.dtype for leaf in leaves]
  assert set(types) == {jnp.dtype('float32'), jnp.dtype('int32')}
  assert types.count(jnp.dtype('int32')) == 3  # step, num_updates, Adam's


def equations(jaxpr):
  """Yields the equations of a jaxpr and of all that it calls."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if isinstance(inner, jax.extend.core.Jaxpr):
        yield from equations(inner)


def test_what_needs_float32_has_it_inside_of_the_network():
  args = {'ch': 8, 'emb_ch': 16, 'ch_mult': (1, 2), 'num_res_blocks': 1}
  args |= {'attn_resolutions': (4,), 'num_heads': 1}
  args |= {'dropout': 0.1, 'dtype': 'bfloat16'}
  model = {'name': 'unet_iddpm', 'mean_type': 'v', 'args': args}
  denoiser = build_denoiser(model, (8, 8, 1), 10)

  def x_hat(params, z, logsnr):
    condition = {'label': jnp.zeros(2, jnp.int32)}
    keys = jax.random.split(KEY, 2)
    return denoiser.bind(params, condition, keys)(z, logsnr)

  jaxpr = jax.make_jaxpr(x_hat)(
    denoiser.param_shapes(), jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)
  )
  types = {}
  for equation in equations(jaxpr.jaxpr):
    inputs = {str(atom.aval.dtype) for atom in equation.invars}
    types.setdefault(equation.primitive.name, []).append(inputs)
  # The expensive operations are in bfloat16; the head, the angles of the
  # embedding, the softmax and the sums of norms are not.
  *convolutions, head = types['conv_general_dilated']
  assert head == {'float32'}
  for inputs in (*convolutions, *types['dot_general']):
    assert inputs == {'bfloat16'}
  for name in ('sin', 'cos', 'exp', 'rsqrt', 'reduce_sum'):
    assert all(inputs == {'float32'} for inputs in types[name]), name
  assert jaxpr.out_avals[0].dtype == 'float32'


@pytest.fixture(scope='module')
def case():
  """Noisy images at random levels of 4096 steps, and at the ends."""
  rng = np.random.RandomState(0)
  index = np.concatenate([[0, 1, STEPS - 1], rng.randint(0, STEPS, 61)])
  x, eps = rng.uniform(-1, 1, (64, 8, 8, 1)), rng.standard_normal((64, 8, 8, 1))
  schedule = schedules.get_logsnr_schedule('cosine')
  index = jnp.asarray(index, jnp.int32)
  logsnr, _ = schedules.step_logsnr(schedule, index, STEPS)
  z_t = process.diffuse(*(jnp.asarray(a, 'float32') for a in (x, logsnr, eps)))
  return z_t, index, schedule


@pytest.fixture(scope='module')
def predictions(case, params):
  """Returns (x1, x2, target) of a teacher in float32 and one in bfloat16."""
  z_t, index, schedule = case

  def predict(dtype):
    _, denoiser = build(dtype)
    denoise, seen = denoiser.bind(params, {'label': index % 10}), []

    def recording(z, logsnr):
      seen.append(denoise(z, logsnr))
      return seen[-1]

    def target(z_t):
      seen.clear()
      return (
        targets.distillation_target(recording, z_t, index, STEPS, schedule),
        *seen,
      )

    arrays = jax.jit(target)(z_t)
    assert {array.dtype for array in arrays} == {jnp.dtype('float32')}
    target, x1, x2 = (np.asarray(array, np.float64) for array in arrays)
    return x1, x2, target

  return predict('float32'), predict('bfloat16')


def rms(array):
  return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def test_the_error_of_the_target_is_that_of_the_predictions(predictions):
  # The error of a weighted mean is at most the larger error of its two terms.
  (x1, x2, target), (y1, y2, rounded) = predictions
  worse = np.maximum(np.abs(y1 - x1), np.abs(y2 - x2))
  error = np.abs(rounded - target)
  # The mean's own arithmetic in float32 adds a few roundings of its terms.
  assert np.all(error <= worse + 4 * 2.0**-24 * np.abs(x1).max())
  # The error of bfloat16, with its 8 bits, is visible: more than one rounding
  # of x_hat, and less than one for each layer of the network.
  assert 2.0**-9 < rms(worse) / rms(x1) < 16 * 2.0**-9


def quotient(case, x1, x2, convert):
  """Returns the paper's target (Algorithm 2), each z as `convert` keeps it."""
  z_t, index, _ = case
  index = np.asarray(index, np.float64)
  levels = [cosine64((index + u) / STEPS) for u in (1, 0.5, 0)]
  (a_t, s_t), (a_m, s_m), (a_s, s_s) = (
    tuple(
      convert(np.sqrt(1 / (1 + np.exp(sign * level)))[:, None, None, None])
      for sign in (-1, 1)
    )
    for level in levels
  )
  z_t, x1, x2 = convert(z_t), convert(x1), convert(x2)
  z_m = convert(a_m * x1 + s_m / s_t * (z_t - a_t * x1))
  z_s = convert(a_s * x2 + s_s / s_m * (z_m - a_m * x2))
  target = (z_s - s_s / s_t * z_t) / (a_s - s_s / s_t * a_t)
  # At i = 0 the original takes the teacher's second prediction: s is data.
  return np.where(index[:, None, None, None] == 0, x2, target)


def float32(array):
  return np.asarray(array, np.float32)


def through_bfloat16(array):
  """Returns z as a network's own arithmetic would hand it on."""
  array = float32(array)
  is_z = array.shape[1:] == (8, 8, 1)
  return float32(array.astype(jnp.bfloat16)) if is_z else array


def test_the_quotient_is_accurate_in_float32_but_not_in_bfloat16(
  case, predictions
):
  # This is why the target is computed as a mean. With z in float32 the paper's
  # quotient is the same mean of the predictions; its own rounding is hundreds
  # of times that of the mean, but small compared with that of a bfloat16
  # teacher. If z passes through bfloat16, the error is as large as the images.
  (_, _, target), (y1, y2, rounded) = predictions
  exact = quotient(case, y1, y2, np.float64)
  mean_error = rms(rounded - exact)
  of_bfloat16 = rms(rounded - target)
  in_float32 = rms(quotient(case, y1, y2, float32) - exact)
  assert mean_error < 1e-6  # float32's digits
  assert 100 * mean_error < in_float32 < of_bfloat16 / 10
  # The mean has no z in it: only the two predictions are rounded.
  y1, y2 = (through_bfloat16(y) for y in (y1, y2))
  assert rms(quotient(case, y1, y2, np.float64) - target) < 1.5 * of_bfloat16
  in_bfloat16 = rms(quotient(case, y1, y2, through_bfloat16) - target)
  assert in_bfloat16 > max(20 * of_bfloat16, rms(target) / 2)
