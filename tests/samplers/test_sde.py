"""The SDE samplers against the originals' numbers and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules
from diffusion_distillation.samplers import (
  Sampler,
  Step,
  make_sampler,
  sample,
  sde,
)
from diffusion_distillation.samplers.grids import make_grid
from tests.samplers import mixture

CASES, ARRAYS = mixture.read('sde')
COSINE = schedules.get_logsnr_schedule('cosine')
UNIFORM = schedules.get_logsnr_schedule('uniform')
KEY = jax.random.key(0)


def sub_vp(t):
  log_alpha = -(19.9 / 4) * t**2 - 0.05 * t
  return 2 * log_alpha - 2 * jnp.log(-jnp.expm1(2 * log_alpha))


def exploding(t):
  return -2 * (np.log(0.01) + t * np.log(5000))


SCHEDULES = {'vp': mixture.linear, 'subvp': sub_vp, 've': exploding}


def run_sde(case, arrays, denoiser):
  """Returns the images of a predictor-corrector case, and those wanted."""
  kind, n = case['sde'], case['N']
  has_corrector = case['corrector'] != 'none'
  sampler = make_sampler(
    'predictor_corrector',
    predictor=case['predictor'].removesuffix('_sampling'),
    corrector=case['corrector'] if has_corrector else 'langevin',
    corrector_steps=case['corrector_steps'] if has_corrector else 0,
    snr=case['snr'],
    sde=kind,
    steps='score_sde',
  )
  times = np.linspace(1, case['t_to'], n)
  noise = np.asarray(arrays[case['arrays']['noise']], float)
  draws = noise[1:].reshape(n, -1, *noise.shape[1:]).copy()
  if case['denoise'] and case['predictor'] != 'none':
    draws[-1, -1] = 0  # the mean
  first, last = (SCHEDULES[kind](times[i]) for i in (0, -1))
  prior = noise[0] * (sde.std('ve', first) if kind == 've' else 1)
  z = sample(
    denoiser(case['data']),
    prior / sde.scale(kind, first),
    schedule=SCHEDULES[kind],
    num_steps=n,
    sampler=sampler,
    grid=np.append(times, times[-1]),
    noise=draws if sampler.draws_per_step > 1 else draws[:, 0],
    clip=False,
  )
  return z * sde.scale(kind, last), arrays[case['arrays']['out']]


def run_langevin(case, arrays, denoiser):
  """Returns the images of annealed Langevin dynamics, and those wanted."""
  start, noise, levels, out = (
    np.asarray(arrays[case['arrays'][key]], float)
    for key in ('y_0', 'noise', 'sigmas', 'out')
  )
  logsnr = -2 * np.log(levels)
  times = UNIFORM.time(np.append(logsnr, logsnr[-1]))
  if case['denoise']:
    times = np.append(times, 0)
  # The step to data has noise that it does not use.
  draws = np.zeros((len(times) - 1, case['steps_each'], *start.shape))
  used = noise[: case['draws_used']]
  draws[: len(levels)] = used.reshape(len(levels), *draws.shape[1:])
  z = sample(
    denoiser(case['data']),
    start / sde.scale('ve', logsnr[0]),
    schedule=UNIFORM,
    num_steps=len(times) - 1,
    sampler='annealed_langevin',
    steps_per_level=case['steps_each'],
    step_lr=case['step_lr'],
    grid=times,
    noise=draws,
    clip=False,
  )
  return z * (1 if case['denoise'] else sde.scale('ve', logsnr[-1])), out


def norm_over_the_batch(images):
  norms = jnp.sqrt(jnp.sum(images**2, axis=(1, 2, 3)))
  return jnp.full_like(norms, jnp.mean(norms))


@pytest.mark.parametrize('is_float64', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_samples_are_those_of_the_originals(name, is_float64, monkeypatch):
  # This is the only difference: the originals couple the images of a batch.
  monkeypatch.setattr(sde, 'norm', norm_over_the_batch)
  case = CASES[name]
  run = run_langevin if case['kind'] == 'annealed_langevin' else run_sde
  if is_float64:
    with jax.enable_x64(True):
      got, want = run(case, ARRAYS, mixture.denoiser)
    # The noise of the originals, of up to 50, is stored in float32.
    np.testing.assert_allclose(got, want, atol=2e-6)
  else:
    # The last step multiplies the rounding of x_hat by up to 200. A noise level
    # of 50, from its log-SNR in float32, has a relative error of 2e-7.
    got, want = run(case, ARRAYS, mixture.precise_denoiser)
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-6)


def test_rates_are_those_of_the_published_sdes():
  with jax.enable_x64(True):
    t = jnp.linspace(0.01, 1, 7)
    beta = 0.1 + 19.9 * t
    alpha = jnp.exp(-(19.9 / 4) * t**2 - 0.05 * t)
    k = 0.01 * 5000**t
    want = {
      'vp': (-beta / 2, beta),
      'subvp': (-beta / 2, beta * (1 - alpha**4)),
      've': (0 * t, 2 * np.log(5000) * k**2),
    }
    for kind, rates in want.items():
      got = sde.rates(kind, SCHEDULES[kind], t)
      np.testing.assert_allclose(got, rates, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sde.std('subvp', sub_vp(t)), 1 - alpha**2)
    np.testing.assert_allclose(sde.std('ve', exploding(t)), k)


@pytest.mark.parametrize('kind', sde.SDES)
def test_a_short_transition_is_eulers(kind):
  with jax.enable_x64(True):
    t, dt = jnp.array([0.3, 0.8]), 1e-4
    schedule = SCHEDULES[kind]
    exact = sde.exact_transition(kind, schedule(t), schedule(t - dt))
    euler = sde.euler_transition(kind, schedule, t, dt)
    np.testing.assert_allclose(exact.ratio, euler.ratio, rtol=1e-6)
    np.testing.assert_allclose(exact.variance, euler.variance, rtol=2e-3)


def test_steps_keep_standard_normal_images():
  # Of N(0, I) the score is -y, and an image is (1, 1, 1, 1): y_s is linear in
  # y and in the noise.
  exact = sde.exact_transition('vp', jnp.array([0.5]), jnp.array([0.6]))
  v = exact.variance.item()
  one = jnp.ones((1, 1, 1, 1))

  def variance_after(mean):
    return mean(one, -one, exact).item() ** 2 + v

  assert 0.01 < v < 0.1
  assert abs(variance_after(sde.ancestral_mean) - 1) < 1e-6
  # First order: only v^2 remains.
  assert abs(variance_after(sde.reverse_mean) - 1) < 2 * v**2
  size = jnp.array([v])
  kept = sde.langevin_step(one, -one, size, 0 * one).item() ** 2
  kept += sde.langevin_step(0 * one, 0 * one, size, one).item() ** 2
  assert abs(kept - 1) < 2 * v**2


def gaussian(z, logsnr):
  """The denoiser of N(0, 1/4)."""
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  return alpha * z / (alpha**2 + 4 * sigma**2)


@pytest.mark.parametrize(
  'spelling',
  [
    'predictor_corrector:sde=ve,corrector_steps=2@karras',
    'predictor_corrector:sde=subvp,predictor=euler_maruyama',
    'predictor_corrector:predictor=ancestral,corrector=ald',
    'predictor_corrector:steps=score_sde',
    'euler_maruyama:sde=ve,steps=score_sde',
  ],
)
def test_few_steps_are_finite_and_many_have_the_data_s_variance(spelling):
  @jax.jit
  def run(num_steps):
    z = jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    return sample(
      gaussian,
      z,
      schedule=COSINE,
      num_steps=num_steps,
      sampler=spelling,
      clip=False,
      key=KEY,
    )

  for num_steps in (1, 2, 5):
    assert np.all(np.isfinite(run(num_steps)))
  # The sample's own error is 0.011, and the Langevin steps add up to 0.007.
  assert abs(np.std(run(512)) - 0.5) < 0.04


@pytest.mark.parametrize(
  'spelling',
  [
    'euler_maruyama',
    'reverse_diffusion:sde=ve',
    'predictor_corrector:predictor=ancestral,sde=subvp',
    'ancestral',
    'stochastic',
    'gamma_ddim',
    'ddim:eta=0.5',
  ],
)
def test_equal_times_change_nothing(spelling):
  sampler = make_sampler(spelling)
  z = jax.random.normal(KEY, (2, 2, 2, 1))
  noise = jnp.ones((sampler.draws_per_step, *z.shape))
  noise = noise if sampler.draws_per_step > 1 else noise[0]

  def time(index, num_steps):
    return jnp.full(index.shape, 0.4)

  step = Step(gaussian, COSINE, time, jnp.array([1, 1]), 3, noise)
  got, _ = sampler.step(z, gaussian(z, step.logsnr_t), step, ())
  np.testing.assert_allclose(got, z, atol=1e-6)


def noise_of_step(sampler, schedule, times, index):
  """Returns the std in z_s of the noise that a step with this index draws."""
  time = make_grid(np.asarray(times), schedule)
  nothing, noise = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
  step = Step(None, schedule, time, jnp.array([index]), len(times) - 1, noise)
  return sampler.step(nothing, nothing, step, ())[0].item()


@pytest.mark.parametrize(
  ('kind', 'steps'), [('vp', 'grid'), ('vp', 'score_sde'), ('subvp', 'grid')]
)
def test_annealed_corrections_have_the_published_size(kind, steps):
  # In score_sde it is 2 (1 - beta_i) (snr k)^2, with i from 0 to N - 1. On a
  # grid, (alpha_t / alpha_s)^2 takes the place of 1 - beta_i.
  snr, i, n = 0.3, 11, 40
  alpha_s, alpha_t = (
    np.exp(-(19.9 / 4) * t**2 - 0.05 * t) for t in (i / n, (i + 1) / n)
  )
  kept = (alpha_t / alpha_s) ** 2
  if steps == 'score_sde':
    kept = 1 - (0.1 + 19.9 * i / (n - 1)) / n
  k = 1 - alpha_t**2 if kind == 'subvp' else np.sqrt(1 - alpha_t**2)
  sampler = make_sampler(
    f'predictor_corrector:predictor=none,corrector=ald,snr={snr}',
    sde=kind,
    steps=steps,
  )
  got = noise_of_step(sampler, SCHEDULES[kind], np.linspace(1, 0, n + 1), i)
  # Images in the units of 'subvp' are z by a_s / alpha(logsnr_s).
  scale_s = 1
  if kind == 'subvp':
    scale_s = np.sqrt(alpha_s**2 + (1 - alpha_s**2) ** 2)
  want = np.sqrt(2 * 2 * kept) * snr * k / scale_s
  np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize('end', [[], [0.0]])
def test_step_lr_belongs_to_the_last_noise_level(end):
  # The levels are 16, 4 and 1: at the first, size = step_lr 16^2.
  times = UNIFORM.time(-2 * np.log([16.0, 4.0, 1.0]))
  times = np.append(times, end)
  sampler = make_sampler('annealed_langevin', steps_per_level=1, step_lr=1e-3)
  got = noise_of_step(sampler, UNIFORM, times, len(times) - 2)
  # From y, in units of alpha = 1, to z at the second level.
  want = np.sqrt(2 * 1e-3) * 16 / np.sqrt(1 + 4**2)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_images_of_a_batch_are_not_coupled():
  keys = jax.random.split(KEY, 3)
  z = jax.random.normal(KEY, (3, 2, 2, 1))
  z *= jnp.array([1.0, 2.0, 5.0])[:, None, None, None]

  def run(z, keys):
    return sample(
      gaussian,
      z,
      schedule=COSINE,
      num_steps=4,
      sampler='predictor_corrector',
      key=keys,
    )

  np.testing.assert_allclose(
    run(z, keys)[1:2], run(z[1:2], keys[1:2]), atol=1e-6
  )


@pytest.mark.parametrize('draws', [1, 3])
def test_noise_belongs_to_an_image_and_a_step(draws):
  def keep(z_t, x_hat, step, memory):
    noise = step.noise[None] if draws == 1 else step.noise
    return jnp.sum(noise, axis=0), memory

  got = sample(
    gaussian,
    jnp.zeros((2, 2, 2, 1)),
    schedule=COSINE,
    num_steps=3,
    sampler=Sampler(keep, 0, draws_noise=True, draws_per_step=draws),
    grid=[0.9, 0.7, 0.5, 0.3],
    key=KEY,
  )
  shape = (2, 2, 1) if draws == 1 else (draws, 2, 2, 1)
  for image, key in zip(got, jax.random.split(KEY, 2), strict=True):
    noise = jax.random.normal(jax.random.fold_in(key, 2), shape)
    want = noise if draws == 1 else noise.sum(axis=0)
    np.testing.assert_allclose(image, want, atol=1e-6)


@pytest.mark.parametrize(
  ('spelling', 'message'),
  [
    ('euler_maruyama:sde=vpp', "unknown sde 'vpp'; known: vp, subvp, ve"),
    ('reverse_diffusion:steps=n', "unknown steps 'n'; known: grid, score_sde"),
    ('predictor_corrector:predictor=heun', "unknown predictor 'heun'"),
    ('predictor_corrector:corrector=hmc', "unknown corrector 'hmc'"),
    ('predictor_corrector:corrector_steps=-1', 'at least 0'),
    ('predictor_corrector:predictor=none,corrector_steps=0', '1 without'),
    ('predictor_corrector:snr=0', 'snr must be above 0 and finite, got 0'),
    ('predictor_corrector:snr=nan', 'and finite, got nan'),
    ('annealed_langevin:step_lr=nan', 'and finite, got 10 and nan'),
    ('gamma_ddim:sigma=inf', 'sigma must be finite'),
    ('annealed_langevin:steps_per_level=0', 'at least 1'),
    ('annealed_langevin:step_lr=0', 'above 0'),
  ],
)
def test_options_that_make_no_sense_are_refused(spelling, message):
  with pytest.raises(ValueError, match=message):
    make_sampler(spelling)
