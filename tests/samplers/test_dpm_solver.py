"""DDIM with noise, DPM-Solver and UniPC, against the originals' numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from diffusion_distillation.core import schedules
from diffusion_distillation.core.schedules import fraction
from diffusion_distillation.samplers import (
  Step,
  exponential,
  make_sampler,
  sample,
)
from tests.samplers import mixture

CASES, ARRAYS = mixture.read('solvers')
COSINE = mixture.SCHEDULES['cosine']
MOST = 20  # steps
SPELLINGS = {
  'quad_10_eta0.5_mixture': 'ddim:eta=0.5',
  'ddpm_noisy_quad_10': 'ancestral:gamma=1',
  'cosine_dpmsolver++_singlestep_2_time_uniform_10_tend0.001': (
    'dpmpp_2s:inner=time'
  ),
  'cosine_dpmsolver++_singlestep_3_time_quadratic_10_tend0.001': (
    'dpmpp_3s:inner=quadratic,last_order=1'
  ),
  'linear_dpmsolver++_singlestep_3_logSNR_9_tend0.001_solver_type-taylor': (
    'dpmpp_3s:solver_type=taylor,lower_order_final=true'
  ),
  'cosine_dpmsolver++_multistep_2_time_uniform_10_tend0.001': 'dpmpp_2m',
  'diffusers_dpm_10_dpmsolver++_2_heun_True_sigma_min': (
    'dpmpp_2m:solver_type=taylor,lower_order_final=true'
  ),
  'diffusers_dpm_20_dpmsolver++_3_midpoint_True_zero': 'dpmpp_3m',
  'cosine_dpmsolver++_multistep_3_time_uniform_5_tend0.001': (
    'dpmpp_3m:lower_order_final=true'
  ),
  'linear_dpmsolver_singlestep_2_time_uniform_10_tend0.001': (
    'dpm_2s:inner=time'
  ),
  'cosine_dpmsolver_singlestep_3_logSNR_20_tend0.001': 'dpm_3s:last_order=2',
  'cosine_dpmsolver_multistep_2_time_uniform_10_tend0.001': 'dpm_2m',
  'linear_dpmsolver_multistep_3_time_uniform_10_tend0.001': 'dpm_3m',
  'unipc_bh2_2_10_time_uniform_x_low1': (
    'unipc:variant=bh2,lower_order_final=true'
  ),
  'unipc_bh1_2_8_time_uniform_eps_low1': (
    'unipc:variant=bh1,form=eps,lower_order_final=true'
  ),
  'unipc_bh2_3_6_logSNR_x_low0': 'unipc:order=3,variant=bh2',
}


@functools.cache
def program(spelling, schedule):
  """Returns the compiled sampler, one for all step counts."""
  sampler, denoise = make_sampler(spelling), mixture.denoiser()

  @jax.jit
  def run(z, times, num_steps, noise):
    return sample(
      denoise,
      z,
      schedule=mixture.SCHEDULES[schedule],
      num_steps=num_steps,
      sampler=sampler,
      grid=lambda index, n: times[n - index],
      clip='ancestral' in spelling,  # as the original does
      noise=noise if sampler.draws_noise else None,
    )

  return run


def run(spelling, times, z, schedule='cosine', noise=()):
  z = np.asarray(z, np.float32)
  padded = np.zeros(MOST + 1, np.float32)
  padded[: len(times)] = times
  given = np.zeros((MOST, *z.shape), np.float32)
  given[: len(noise)] = noise if len(noise) else 0
  return np.asarray(
    program(spelling, schedule)(z, padded, len(times) - 1, given)
  )


@pytest.mark.parametrize('name', SPELLINGS)
def test_samples_are_those_of_the_originals(name):
  case = CASES[name]
  got = run(
    SPELLINGS[name],
    ARRAYS[f'{name}/t'],
    ARRAYS[f'{name}/start'],
    case['schedule'],
    ARRAYS.get(f'{name}/noise', ()),
  )
  error = np.abs(got - ARRAYS[f'{name}/end']).max()
  assert error < max(1e-5, 10 * case['float32_error'])


def test_every_reference_is_compared():
  assert {n for n in CASES if not n.startswith('mixture')} == set(SPELLINGS)


def test_one_program_serves_all_step_counts():
  z = ARRAYS['mixture_-10_to_4/start']
  for spelling in ('dpmpp_2m', 'dpmpp_3m:lower_order_final=true'):
    for num_steps in (1, 4, 10):
      run(spelling, np.linspace(1, 0, num_steps + 1), z)
    assert program(spelling, 'cosine')._cache_size() == 1


def one_step():
  """A step in the middle of the cosine schedule, and z_t and x_hat."""
  z, x_hat, noise = jax.random.normal(jax.random.key(0), (3, 4, 2, 2, 1))
  index = jnp.arange(1, 5)
  return z, x_hat, Step(None, COSINE, fraction, index, 5, noise)


def test_ddim_with_eta_1_is_ancestral_sampling_and_with_0_draws_nothing():
  z, x_hat, step = one_step()
  got, want = (
    make_sampler(name).step(z, x_hat, step, ())[0]
    for name in ('ddim:eta=1', 'ancestral:gamma=0')
  )
  np.testing.assert_allclose(got, want, atol=2e-6)
  assert not make_sampler('ddim:eta=0').draws_noise
  assert make_sampler('ddim:eta=0.1').draws_noise


@pytest.mark.parametrize('form', exponential.FORMS)
@pytest.mark.parametrize('h', [1e-3, 0.1, 1.0, 9.0])
def test_a_polynomial_prediction_is_integrated_exactly(form, h):
  def prediction(u):
    return 0.3 + 0.5 * u / h - 0.2 * (u / h) ** 2 + 0.1 * (u / h) ** 3

  logsnr_s = 10.0
  alpha_s, sigma_s = np.sqrt(1 / (1 + np.exp([-logsnr_s, logsnr_s])))
  weight, sign = (alpha_s, 1) if form == 'x' else (-sigma_s, -1)
  want, _ = integrate.quad(
    lambda u: (prediction(u) - 0.3) * np.exp(sign * (u - h)), 0, h
  )
  at = [0.0, h, -0.7 * h, -1.1 * h]
  points = [(np.float32([u]), np.float32([[prediction(u)]])) for u in at]
  got = jax.jit(exponential.change, static_argnums=0)(
    form, np.float32([logsnr_s]), np.float32([h]), points
  )
  np.testing.assert_allclose(got.item(), weight * want, rtol=1e-5)


def test_published_3m_lacks_a_factor_that_costs_an_order():
  steps = np.array([40, 80, 160])
  uniform = schedules.get_logsnr_schedule('uniform')
  end = uniform.time(4.0)
  length = uniform.time(-10.0) - end

  @functools.partial(jax.jit, static_argnums=0)
  def arrive(sampler, num_steps):
    return sample(
      mixture.denoiser(),
      jnp.asarray(ARRAYS['mixture_-10_to_4/start']),
      schedule=uniform,
      num_steps=num_steps,
      sampler=sampler,
      grid=lambda index, n: end + length * fraction(index, n),
      clip=False,
    )

  orders = {}
  with jax.enable_x64(True):
    for name in ('dpmpp_3m', 'dpmpp_3m:corrected=true'):
      errors = [
        np.abs(arrive(name, n) - ARRAYS['mixture_-10_to_4/end']).max()
        for n in steps
      ]
      orders[name] = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
  assert orders['dpmpp_3m'] < 2.6
  assert abs(orders['dpmpp_3m:corrected=true'] - 3) < 0.2


@pytest.mark.parametrize(
  ('spelling', 'schedule'),
  [
    ('dpmpp_3s:solver_type=taylor,lower_order_final=true', 'linear'),
    ('dpm_2s:inner=time', 'linear'),
    ('dpmpp_3m', 'ddpm'),
    ('unipc:order=3,variant=bh2', 'linear'),
  ],
)
def test_equal_times_change_nothing(spelling, schedule):
  z = ARRAYS['mixture_-10_to_4/start']
  once = run(spelling, [0.9, 0.7, 0.5, 0.3, 0.1, 0.0], z, schedule)
  # The first step twice, and one in the middle three times.
  repeated = [0.9, 0.9, 0.7, 0.5, 0.5, 0.5, 0.3, 0.1, 0.0]
  got = run(spelling, repeated, z, schedule)
  np.testing.assert_allclose(got, once, atol=1e-6)


@pytest.mark.parametrize(
  'spelling', ['dpm_3s:inner=time', 'unipc:order=3,form=eps']
)
def test_the_eps_form_is_accurate_from_pure_noise(spelling):
  # Without DDIM below log-SNR -10.2 the errors are 74 and 2.
  end = run(spelling, np.linspace(1, 0, 11), ARRAYS['mixture_-20_to_20/start'])
  error = np.abs(end - ARRAYS['mixture_-20_to_20/end']).max()
  assert error < 0.1


@pytest.mark.parametrize(
  ('spelling', 'evaluations'),
  [
    ('dpmpp_3s:last_order=1', [1, 4, 7, 10]),
    ('dpmpp_3s:lower_order_final=true', [1, 3, 6, 9]),
  ],
)
def test_lower_orders_cost_fewer_evaluations(spelling, evaluations):
  count = []

  def denoise(z, logsnr):
    jax.debug.callback(lambda: count.append(1))
    return 0 * z

  @jax.jit
  def end(num_steps):
    z = jnp.ones((1, 1, 1, 1))
    return sample(
      denoise, z, schedule=COSINE, num_steps=num_steps, sampler=spelling
    )

  for num_steps, want in enumerate(evaluations, start=1):
    count.clear()
    end(num_steps).block_until_ready()
    jax.effects_barrier()
    assert len(count) == make_sampler(spelling).nfe(num_steps) == want


@pytest.mark.parametrize(
  ('spelling', 'message'),
  [
    ('ddim:eta=1.5', r'eta must be in \[0, 1\], got 1.5'),
    ('ddim:eta=-0.5', r'eta must be in \[0, 1\], got -0.5'),
    (
      'dpmpp_2m:solver_type=heun',
      "solver_type 'heun'; known: midpoint, taylor",
    ),
    ('dpmpp_2m:corrected=true', "no option 'corrected'"),
    ('dpmpp_2s:inner=cosine', 'known: logsnr, time, quadratic'),
    ('dpmpp_2s:last_order=3', 'unknown last_order 3; known: None, 1, 2'),
    ('unipc:order=4', 'unknown order 4; known: 1, 2, 3'),
    ('unipc:variant=bh3', 'known: exact, bh1, bh2'),
    ('unipc:form=v', "unknown form 'v'; known: x, eps"),
  ],
)
def test_options_that_make_no_sense_are_refused(spelling, message):
  with pytest.raises(ValueError, match=message):
    make_sampler(spelling)


def test_the_denoiser_is_that_of_the_references():
  arrays = np.load(mixture.FOLDER / 'denoiser.npz')
  z, logsnr = (
    jnp.asarray(arrays[f'check/{key}'], jnp.float32) for key in ('z', 'logsnr')
  )
  for data in ('mixture', 'gaussian'):
    got = jax.jit(mixture.denoiser(data))(z, logsnr)
    np.testing.assert_allclose(got, arrays[f'check/x_hat_{data}'], atol=1e-5)
