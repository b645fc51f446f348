"""DDIM in parallel, against DDIM and the originals' numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.samplers import parallel, sample
from tests.samplers import mixture

CASES, ARRAYS = mixture.read('chain')
DENOISE = mixture.denoiser()
COSINE, DDPM = (mixture.SCHEDULES[name] for name in ('cosine', 'ddpm'))
STEPS = 16


def noise(num_images=3):
  return jax.random.normal(jax.random.key(2), (num_images, 8, 8, 1))


@functools.cache
def ddim():
  """DDIM of `noise()`, step by step."""
  run = jax.jit(
    lambda z: sample(DENOISE, z, schedule=COSINE, num_steps=STEPS, clip=False)
  )
  return np.asarray(run(noise()))


def parallel_ddim(z_1, **options):
  """Returns images and Info of the same DDIM in parallel."""
  given = {'schedule': COSINE, 'num_steps': STEPS, 'clip': False, **options}
  run = jax.jit(lambda z: parallel.parallel_sample(DENOISE, z, **given))
  return jax.tree.map(np.asarray, run(z_1))


def tolerance(name):
  return max(1e-5, 10 * CASES[name]['float32_error'])


def of_original(name):
  """Returns the chain of a case, and its start: every state is the noise."""
  times = ARRAYS[f'{name}/t']
  chain = parallel.make_chain(DENOISE, DDPM, len(times) - 1, times, clip=False)
  z_1 = jnp.asarray(ARRAYS[f'{name}/z_1'], jnp.float32)
  return chain, jnp.broadcast_to(z_1, (len(times), *z_1.shape))


def test_sweeps_are_those_of_the_original():
  name = 'picard_uniform_10'
  chain, z = of_original(name)
  sweep = jax.jit(lambda z: chain.sweep(z, np.inf))
  for want in ARRAYS[f'{name}/x_0_after_each_sweep']:
    z = sweep(z)
    assert np.abs(z[-1] - want).max() < tolerance(name)


@pytest.mark.parametrize(
  'name',
  [
    'anderson_uniform_10_m5_lam0.001_beta1_tol0.001',
    'anderson_uniform_20_m3_lam0.001_beta0.9_tol0.01',
  ],
)
def test_anderson_is_that_of_the_original(name, monkeypatch):
  case = CASES[name]
  chain, z = of_original(name)
  # The original returns the states that it evaluates last, and not F of them.
  monkeypatch.setattr(parallel, '_fixed_point', lambda *args: args[-2:])
  options = {key: case[key] for key in ('m', 'lam', 'beta')}
  init, update = parallel.anderson(**options, published=True)
  memory = init(z)

  @jax.jit
  def step(z, k, memory):
    return update(z, chain.sweep(z, np.inf), k, memory)

  for k in range(case['evaluations'] - 1):
    z, memory = step(z, k, memory)
  assert np.abs(z[-1] - ARRAYS[f'{name}/out']).max() < tolerance(name)


@pytest.mark.parametrize(
  'name', ['window10_of50_tol0.1', 'window20_of20_tol0.1']
)
def test_windows_are_those_of_the_original(name):
  case = CASES[name]
  _, start = of_original(name)
  images, info = parallel_ddim(
    start[0],
    schedule=DDPM,
    num_steps=case['steps'],
    grid=ARRAYS[f'{name}/t'],
    start=start,
    method=f'window:together=true,data_std=1,size={case["window"]}',
    tol=case['tolerance'],
  )
  assert np.abs(images - ARRAYS[f'{name}/out']).max() < tolerance(name)
  assert (info.sweeps == case['passes']).all()


@pytest.mark.parametrize(
  'method',
  [
    'picard',
    'picard:data_std=inf',
    'anderson',
    'anderson:m=5',
    'window:size=5,tol=0.003',
  ],
)
def test_as_many_sweeps_as_steps_are_exact(method):
  # With a tolerance of 0, only the largest number of sweeps ends them.
  tol = {} if 'window' in method else {'tol': 0.0}
  images, info = parallel_ddim(noise(), method=method, **tol)
  atol = 2e-3 if 'window' in method else 1e-5
  np.testing.assert_allclose(images, ddim(), atol=atol)
  assert info.sweeps.max() <= STEPS


def test_the_first_n_states_are_exact_after_n_sweeps():
  for method in ('picard', 'anderson'):
    # Sweeps of noise predictions, data_std=inf, are the slowest near noise.
    given = {'method': method, 'tol': 0.0, 'data_std': np.inf}
    _, whole = parallel_ddim(noise(), **given)
    _, part = parallel_ddim(noise(), max_sweeps=4, **given)
    np.testing.assert_allclose(part.states[:5], whole.states[:5], atol=1e-6)
    assert np.abs(part.states[6] - whole.states[6]).max() > 1e-5
    assert (part.sweeps == 4).all() and (part.residual > 1e-4).all()


def test_sweeps_know_gaussian_data_of_their_standard_deviation():
  std = np.load(mixture.FOLDER / 'denoiser.npz')['gaussian/stds'][0]
  sweep = jax.jit(
    lambda z, data_std: parallel.make_chain(
      mixture.denoiser('gaussian'), COSINE, STEPS, clip=False
    ).sweep(z, data_std)
  )
  start = jnp.broadcast_to(noise(), (STEPS + 1, *noise().shape))
  errors = []
  for data_std in (std / 3, std, 3 * std):
    z = start
    for _ in range(3):
      z = sweep(z, data_std)
    errors.append(np.abs(sweep(z, data_std) - z).max())
  assert errors[1] < min(errors[0], errors[2]) / 10


def test_an_image_does_not_depend_on_its_batch():
  # The first image is done after fewer sweeps than the others.
  easy_and_hard = noise().at[1].multiply(0.01)[::-1]
  for method in ('picard', 'anderson', 'window:size=6'):
    images, info = parallel_ddim(easy_and_hard, method=method)
    alone, of_one = parallel_ddim(easy_and_hard[:1], method=method)
    np.testing.assert_allclose(images[:1], alone, atol=1e-5)
    assert info.sweeps[0] == of_one.sweeps[0]
    assert 'window' in method or info.sweeps[0] < info.sweeps[1:].min()
    width = 6 if 'window' in method else STEPS
    assert info.evaluations == info.sweeps.max() * width * len(images)


def test_conditions_are_bound_to_images_and_steps_are_split():
  label = jnp.arange(3.0)

  def denoise(z, logsnr):
    assert z.shape[0] == logsnr.shape[0] == len(label)
    return 0.1 * z + label[:, None, None, None]  # up to 2, which is clipped

  given = {'schedule': COSINE, 'num_steps': STEPS}
  run = jax.jit(
    lambda z: (
      parallel.parallel_sample(denoise, z, tol=1e-6, **given)[0],
      parallel.parallel_sample(
        denoise, z, tol=1e-6, devices=jax.devices()[:4], **given
      )[0],
      sample(denoise, z, **given),
    )
  )
  whole, split, want = run(noise())
  np.testing.assert_allclose(whole, want, atol=1e-5)
  np.testing.assert_allclose(split, want, atol=1e-5)


def test_repeated_times_are_those_of_the_sampler():
  given = {'num_steps': 5, 'grid': [1.0, 0.7, 0.7, 0.4, 0.0, 0.0]}
  got, _ = parallel_ddim(noise(), **given)
  want = sample(DENOISE, noise(), schedule=COSINE, clip=False, **given)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_unknown_methods_and_options_are_refused():
  with pytest.raises(ValueError, match='known: picard, anderson, window'):
    parallel_ddim(noise(), method='newton')
  with pytest.raises(ValueError, match="has no option 'size'"):
    parallel_ddim(noise(), method='picard:size=3')
  for option in ('picard:data_std=0', 'anderson:m=0', 'window:size=0'):
    with pytest.raises(ValueError, match='must be positive, got 0'):
      parallel_ddim(noise(), method=option)
  for given, message in (
    ({'method': 'picard:tol=nan'}, 'tol must be at least 0'),
    ({'method': 'anderson:lam=0'}, 'lam must be positive'),
    ({'max_sweeps': 0}, 'max_sweeps must be at least 1'),
    ({'num_steps': 0}, 'num_steps must be at least 1'),
    ({'num_steps': 2, 'grid': [1.0, 0.0]}, 'grid of 3 times'),
    ({'num_steps': 3, 'devices': jax.devices()[:2]}, '3 steps .* 2 devices'),
  ):
    with pytest.raises(ValueError, match=message):
      parallel_ddim(noise(), **given)
