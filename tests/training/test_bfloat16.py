"""A network that computes in bfloat16, and all else in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules, targets
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.objectives.denoising import make_train_step
from diffusion_distillation.objectives.progressive import make_distill_step
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state
from tests.conftest import tiny_config
from tests.core.test_schedules import cosine64
from tests.networks.test_unet import QUICK
from tests.training.test_steps import KEY, batch, split

STEPS = 4096


def build(dtype, **args):
  config = tiny_config()
  config.model.args.update(dtype=dtype, **args)
  return config, build_denoiser(config.model, (8, 8, 1), 10)


def equations(jaxpr):
  """Yields the equations of a jaxpr and of all that it calls."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if isinstance(inner, jax.extend.core.Jaxpr):
        yield from equations(inner)


@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_the_state_and_the_loss_are_float32(who):
  config, denoiser = build('bfloat16', dropout=0.1)
  if who == 'teacher':
    config = teacher_config(config)
  optimizer = make_optimizer(config.train)
  make = make_train_step if who == 'teacher' else make_distill_step
  step = make(denoiser, optimizer, config)
  params = denoiser.param_shapes()
  fixed = () if who == 'teacher' else (params, jnp.int32(STEPS))
  axes = (None, *(None for _ in fixed), 0, None)

  def after(params, *fixed):
    state = create_state(params, optimizer, num_updates=9, ema_decay=0.9)
    replicated = jax.vmap(step, axes, axis_name='batch')
    return replicated(state, *fixed, split(batch(), 1), KEY)

  leaves = jax.tree.leaves(jax.eval_shape(after, params, *fixed))
  types = [leaf.dtype for leaf in leaves]
  assert set(types) == {jnp.dtype('float32'), jnp.dtype('int32')}
  counters = 2 + (config.train.optimizer == 'adam')  # step, num_updates, Adam's
  assert types.count(jnp.dtype('int32')) == counters


def test_what_needs_float32_has_it_inside_of_the_network():
  _, denoiser = build(
    'bfloat16', ch_mult=(1, 2), attn_resolutions=(4,), dropout=0.1
  )

  def x_hat(params, z, logsnr):
    keys = jax.random.split(KEY, 2)
    return denoiser.bind(params, jnp.zeros(2, jnp.int32), keys)(z, logsnr)

  jaxpr = jax.make_jaxpr(x_hat)(
    denoiser.param_shapes(), jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)
  )
  types = {}
  for equation in equations(jaxpr.jaxpr):
    inputs = {str(atom.aval.dtype) for atom in equation.invars}
    types.setdefault(equation.primitive.name, []).append(inputs)
  # What costs is bfloat16; the head, the embedding's angles, the softmax and
  # the sums of norms are not.
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
  logsnr, _ = targets.step_logsnr(schedule, index, STEPS)
  z_t = process.diffuse(*(jnp.asarray(a, 'float32') for a in (x, logsnr, eps)))
  return z_t, index, schedule


@pytest.fixture(scope='module')
def of_teacher(case, params):
  """Returns (x1, x2, target) of a teacher in float32 and one in bfloat16."""
  z_t, index, schedule = case

  def predictions(dtype):
    _, denoiser = build(dtype)
    denoise, seen = denoiser.bind(params, index % 10), []

    def recording(z, logsnr):
      seen.append(denoise(z, logsnr))
      return seen[-1]

    def target(z_t):
      seen.clear()
      return (
        targets.distillation_target(recording, z_t, index, STEPS, schedule),
        *seen,
      )

    arrays = jax.jit(target, compiler_options=QUICK)(z_t)
    assert {array.dtype for array in arrays} == {jnp.dtype('float32')}
    target, x1, x2 = (np.asarray(array, np.float64) for array in arrays)
    return x1, x2, target

  return predictions('float32'), predictions('bfloat16')


def rms(array):
  return np.sqrt(np.mean(np.square(array, dtype=np.float64)))


def test_the_target_s_error_is_that_of_the_predictions(of_teacher):
  """A weighted mean of two numbers is as wrong as the worse, everywhere."""
  (x1, x2, target), (y1, y2, rounded) = of_teacher
  worse = np.maximum(np.abs(y1 - x1), np.abs(y2 - x2))
  error = np.abs(rounded - target)
  # Of the mean's own arithmetic, in float32: a few roundings of its terms.
  assert np.all(error <= worse + 4 * 2.0**-24 * np.abs(x1).max())
  # And bfloat16, of 8 bits, does show: by more than one rounding of x_hat, and
  # less than one for each of the layers on the way.
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


def test_the_quotient_is_as_good_in_float32_and_lost_in_bfloat16(
  case, of_teacher
):
  """What the identity buys: not the teacher's bfloat16, but that of the z's.

  With float32 z's the paper's quotient is the same mean of the predictions; its
  own rounding, though hundreds of times the mean's, hides in the teacher's.
  Where the z's pass through bfloat16, the error is of the size of the images.
  """
  (_, _, target), (y1, y2, rounded) = of_teacher
  exact = quotient(case, y1, y2, np.float64)
  mean_error = rms(rounded - exact)
  of_bfloat16 = rms(rounded - target)
  in_float32 = rms(quotient(case, y1, y2, float32) - exact)
  assert mean_error < 1e-6  # float32's digits
  assert 100 * mean_error < in_float32 < of_bfloat16 / 10
  # The mean has no z in it: the two predictions may be rounded as they like.
  y1, y2 = (through_bfloat16(y) for y in (y1, y2))
  assert rms(quotient(case, y1, y2, np.float64) - target) < 1.5 * of_bfloat16
  in_bfloat16 = rms(quotient(case, y1, y2, through_bfloat16) - target)
  assert in_bfloat16 > max(20 * of_bfloat16, rms(target) / 2)
