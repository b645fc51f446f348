"""Objectives against numbers of the original programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import (
  losses,
  parameterization,
  process,
  schedules,
  targets,
)
from diffusion_distillation.objectives import consistency, levels
from diffusion_distillation.objectives.consistency_training import (
  doubling_schedule,
  original_schedule,
)
from diffusion_distillation.objectives.score_matching import (
  implicit_loss,
  sliced_loss,
)
from diffusion_distillation.objectives.tract import clipped
from diffusion_distillation.samplers import sample
from tests.samplers import mixture

CASES, ARRAYS = mixture.read('objectives')
TEACHER = mixture.denoiser()
# Names of the originals -> ours.
WEIGHTINGS = {
  'uniform': 'constant',
  'snr': 'snr',
  'snr+1': 'v_mse',
  'truncated-snr': 'snr_trunc',
  'karras': 'karras',
}
DISTANCES = {'l2': 'mse', 'l1': 'l1'}


@pytest.fixture
def rtol():
  """Computes a test in float64, and returns its relative tolerance.

  In float32, two points of a path that are 4e-4 apart, with pixels rounded to
  6e-8, leave three digits of their squared difference.
  """
  with jax.enable_x64(True):
    yield 1e-9


def of_kind(*kinds):
  return [name for name, case in CASES.items() if case.get('kind') in kinds]


def rising_schedules():
  # The others are a constant and the ladder of progressive distillation.
  names = of_kind('schedule')
  return [n for n in names if CASES[n]['scale_mode'] == 'progressive']


def arrays_of(case):
  return {key: jnp.asarray(ARRAYS[at]) for key, at in case['arrays'].items()}


def network(weights, head='edm_consistency'):
  """The toy network of the cases, behind a head: (z, logsnr) -> x_hat."""
  a, b = weights

  def denoise(z, logsnr):
    u = parameterization.network_input(head, z, logsnr)
    c = process.expand(-logsnr / 8, z)
    raw = a * jnp.tanh(u) + b * u * jnp.cos(c)
    return parameterization.predict_x(head, raw, z, logsnr)

  return denoise


def noisy(x, noise, logsnr):
  return process.diffuse(x, logsnr, noise)


@pytest.mark.parametrize(
  'name', of_kind('consistency_distillation', 'consistency_training')
)
def test_the_loss_of_consistency_models(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  at = levels.neighbours(given['indices'], case['num_scales'])
  x, z_t = given['x'], noisy(given['x'], given['noise'], at.logsnr_t)
  step = {'heun': 'heun', 'euler': 'ddim'}.get(case['solver'])

  def x_1(*_):
    if step is None:
      return x
    return consistency.STEPS[step](TEACHER, z_t, x, *at[:2])

  def loss(online):
    x_target = targets.two_step_target(
      x_1, network(case['target']), z_t, *at[:3]
    )
    x_hat = network(online)(z_t, at.logsnr_t)
    weight = losses.weight(WEIGHTINGS[case['weighting']], at.logsnr_t)
    return weight * losses.get_distance(DISTANCES[case['loss_norm']])(
      x_target, x_hat
    )

  online = jnp.asarray(case['online'])
  if 'loss_each' in given:
    np.testing.assert_allclose(loss(online), given['loss_each'], rtol=rtol)
  if 'grad' in given:
    mean, gradient = jax.value_and_grad(lambda w: jnp.mean(loss(w)))(online)
    np.testing.assert_allclose(mean, given['loss_jax'], rtol=rtol)
    np.testing.assert_allclose(gradient, given['grad'], rtol=10 * rtol)


@pytest.mark.parametrize('name', of_kind('progressive_distillation in sigma'))
def test_progressive_distillation_between_karras_levels(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  number = case['num_scales']
  logsnr_t, logsnr_m, logsnr_u = (
    schedules.karras_logsnr(
      jnp.asarray((given['indices'] + part) / number),
      7,
      0.002,
      80,
    )
    for part in (0, 0.5, 1)
  )
  z_t = noisy(given['x'], given['noise'], logsnr_t)
  x_target = targets.two_step_target(
    TEACHER, TEACHER, z_t, logsnr_t, logsnr_m, logsnr_u
  )
  x_hat = network(case['online'], 'edm')(z_t, logsnr_t)
  weight = losses.weight(WEIGHTINGS[case['weighting']], logsnr_t)
  distance = losses.get_distance(DISTANCES[case['loss_norm']])
  np.testing.assert_allclose(
    weight * distance(x_target, x_hat), given['loss_each'], rtol=rtol
  )


@pytest.mark.parametrize('name', [n for n in CASES if n.startswith('tract')])
def test_the_loss_of_tract(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  times, phase = case['time_schedule'], case['phase']
  total = case['timesteps']
  group, step = (total // times[phase + k] for k in (1, 0))
  index = given['group'] * group
  t = index - given['semi'] * step
  schedule = schedules.get_logsnr_schedule('cosine')
  # Data is at log-SNR 20 there.
  logsnr_t, logsnr_m, logsnr_u = (
    schedule(schedules.fraction(i, total)) for i in (t, t - step, index - group)
  )
  z_t = noisy(given['x'], given['noise'], logsnr_t)
  np.testing.assert_allclose(z_t, given['z_t'], atol=1e-5)
  scale, more = case['student']
  x_target = targets.two_step_target(
    clipped(TEACHER),
    clipped(lambda z, logsnr: (scale + more) * TEACHER(z, logsnr)),
    z_t,
    logsnr_t,
    logsnr_m,
    logsnr_u,
  )
  loss = losses.weighted_mse(
    'snr_trunc', x_target, scale * TEACHER(z_t, logsnr_t), logsnr_t
  )
  # The original adds up the pixels.
  np.testing.assert_allclose(64 * loss.mean(), given['loss'], rtol=rtol)


@pytest.mark.parametrize('name', of_kind('losses'))
def test_score_matching_between_noise_levels(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  sigma = given['sigmas'][given['labels']]
  logsnr = -2 * jnp.log(sigma)
  wide = process.expand(sigma, given['x'])
  gaussian = mixture.denoiser('gaussian')
  score = score_of(gaussian, logsnr)
  y = given['x'] + wide * given['eps']
  sliced = sigma**2 * sliced_loss(score, y, given['v'])
  np.testing.assert_allclose(sliced.mean(), given['ssm_vr_annealed'], rtol=rtol)
  # Denoising score matching is the weighting `snr`: |s + eps / sigma|^2 / 2 is
  # D / 2 times the mean of |x_hat - x|^2 / sigma^4.
  x_hat = gaussian(alpha_of(logsnr, y) * y, logsnr)
  dsm = losses.weighted_mse('snr', given['x'], x_hat, logsnr) * 32
  dsm *= sigma ** (case['anneal_power'] - 2)
  np.testing.assert_allclose(dsm.mean(), given['dsm'], rtol=rtol)


def test_sliced_score_matching(rtol):
  case = CASES['sliced_score_matching']
  given = arrays_of(case)
  logsnr = jnp.full(len(given['x']), -2 * np.log(case['sigma']))
  score, v = score_of(TEACHER, logsnr), given['v']
  for name, directions, exact in (
    ('ssm_vr', v, True),
    ('ssm', v / jnp.sqrt(jnp.sum(v**2, axis=(1, 2, 3), keepdims=True)), False),
  ):
    loss = sliced_loss(score, given['x'], directions, exact)
    np.testing.assert_allclose(loss.mean(), given[name][0], rtol=rtol)


def test_implicit_score_matching_is_the_mean_of_the_sliced_one(rtol):
  # A normal direction for each pixel alone: the sum over them is the trace.
  logsnr = jnp.zeros(2)
  score = score_of(TEACHER, logsnr)
  y = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  basis = jnp.eye(64).reshape(64, 1, 8, 8, 1) * jnp.ones((1, 2, 1, 1, 1))
  one = jnp.sum(score(y) ** 2, axis=(1, 2, 3)) / 2
  squares = jax.vmap(lambda v: sliced_loss(score, y, v) - one)(basis)
  trace = jnp.sum(squares, axis=0)
  np.testing.assert_allclose(implicit_loss(score, y), trace + one, rtol=rtol)


def score_of(denoise, logsnr):
  """The score of y = z / alpha at noise levels (B,)."""

  def score(y):
    variance = process.expand(jnp.exp(-logsnr), y)
    return (denoise(alpha_of(logsnr, y) * y, logsnr) - y) / variance

  return score


def alpha_of(logsnr, y):
  return process.alpha_sigma(process.expand(logsnr, y))[0]


@pytest.mark.parametrize('name', of_kind('multistep_sampling'))
def test_multistep_sampling(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  last = case['steps'] - 1
  logsnr = schedules.karras_logsnr(jnp.asarray(case['ts']) / last, 7, 0.002, 80)
  # The last level is that of the result, which is not noisy.
  schedule = schedules.get_logsnr_schedule(
    'uniform', logsnr_min=-40, logsnr_max=40
  )
  times = [float(schedule.time(level)) for level in logsnr[:-1]]
  _, sigma = process.alpha_sigma(logsnr[0])
  images = sample(
    network(case['net']),
    sigma * given['noise'][0],
    schedule=schedule,
    num_steps=len(times),
    sampler='consistency:sigma_min=0.002',
    grid=[*times, 0.0],
    clip=case['clip_denoised'],
    noise=given['noise'][1:],
  )
  np.testing.assert_allclose(
    jnp.clip(images, -1, 1), given['out'], rtol=0, atol=rtol
  )


@pytest.mark.parametrize('name', rising_schedules())
def test_the_schedule_of_consistency_training(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  progress = given['step'] / case['total_steps']
  number, decay = original_schedule(
    case['start_scales'], case['end_scales'], case['start_ema']
  )
  np.testing.assert_array_equal(number(progress), given['num_scales'])
  np.testing.assert_allclose(decay(progress), given['target_ema'], rtol=rtol)


@pytest.mark.parametrize('name', [n for n in CASES if n.startswith('num_sc')])
def test_the_schedule_of_improved_consistency_training(name, rtol):
  case, given = CASES[name], arrays_of(CASES[name])
  progress = given['step'] / case['total_steps']
  number = doubling_schedule(case['s0'], case['s1'])
  np.testing.assert_array_equal(number(progress), given['num_scales'])


@pytest.mark.parametrize(('first', 'last'), [(10, 150), (2, 150), (10, 1280)])
def test_the_last_levels_are_reached(first, last):
  number = doubling_schedule(first, last)
  assert number(jnp.float32(0)) == first + 1
  assert number(jnp.float32(0.999)) == last + 1


@pytest.mark.parametrize('name', [n for n in CASES if n.startswith('pairs')])
def test_the_pairs_of_improved_consistency_training(name):
  case, given = CASES[name], arrays_of(CASES[name])
  keys = jax.random.split(jax.random.key(0), 20_000)
  drawn = levels.improved(keys, case['n'])
  sigma = np.exp(-np.asarray(drawn.logsnr_m) / 2)
  ascending = np.asarray(given['sigmas'])
  index = np.abs(sigma[:, None] - ascending[None]).argmin(axis=1)
  np.testing.assert_allclose(sigma, ascending[index], rtol=1e-4)
  np.testing.assert_allclose(
    drawn.weight, np.asarray(given['weights'])[index], rtol=1e-3
  )
  share = np.bincount(index, minlength=case['n'] - 1) / len(keys)
  pdf = np.asarray(given['pdf'])
  error = 5 * np.sqrt(pdf / len(keys)) + 1e-4
  assert (np.abs(share - pdf) < error).all()
