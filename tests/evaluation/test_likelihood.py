"""Likelihoods and their bound: closed forms, original numbers, the mode."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from configs import digits_base
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.commands.likelihood import likelihood as measure
from diffusion_distillation.core import process, schedules
from diffusion_distillation.evaluation import likelihood
from diffusion_distillation.runtime.errors import UserError
from tests.checkpoints import toy
from tests.samplers import mixture
from tests.test_main import run

CASES, ARRAYS = mixture.read('likelihood')
MEAN, STD = -0.1, 0.3


@pytest.fixture(scope='module')
def density():
  """Returns (data, z, probe, levels) -> Flow, of one program per data."""

  @jax.jit(static_argnums=0)
  def density(data, *args):
    denoise = mixture.denoiser(data)
    return likelihood.flow_density(denoise, *args, rtol=1e-7, atol=1e-7)

  def padded(data, z, probe, levels):
    z, probe = (np.resize(a, (64, 8, 8, 1)) for a in (z, probe))
    return density(data, *(jnp.asarray(a, float) for a in (z, probe, levels)))

  return padded


@pytest.mark.parametrize('name', CASES)
def test_bits_are_those_of_the_original(density, name):
  case = CASES[name]
  x, probe, bits = (ARRAYS[f'{name}/{key}'] for key in ('x', 'probe', 'bits'))
  flow = density(case['data'], x, probe, case['levels'])
  dequantization = likelihood.DEQUANTIZATIONS['score_sde']
  assert dequantization.bits_per_dim(0) == case['offset_bits']
  found = dequantization.bits_per_dim(flow.log_density[: len(x)])
  # The original is off its own exact value by its solver's tolerance.
  np.testing.assert_allclose(found, bits, atol=max(2e-6, 5 * case['rtol']))
  if f'{name}/exact' in ARRAYS:
    np.testing.assert_allclose(found, ARRAYS[f'{name}/exact'], atol=2e-6)


@pytest.mark.parametrize('data', ['gaussian', 'mixture'])
def test_log_density_of_a_mixture(density, data):
  """The mean over the scaled unit vectors is the exact trace."""
  arrays = np.load(mixture.FOLDER / 'denoiser.npz')
  weights, means, stds = (
    arrays[f'{data}/{name}'] for name in ('weights', 'means', 'stds')
  )
  rng = np.random.RandomState(0)
  z = means[-1] + stds[-1] * rng.standard_normal(means[-1].shape)
  z = z.astype(np.float32)
  probes = 8 * np.eye(64).reshape(64, 8, 8, 1)
  flow = density(data, z, probes, [20.0, -20.0])
  alpha2 = 1 / (1 + np.exp(-20))
  scale = np.sqrt(alpha2 * stds**2 + 1 - alpha2)
  logs = [
    np.log(w) + stats.norm(np.sqrt(alpha2) * m, s).logpdf(z).sum()
    for w, m, s in zip(weights, means, scale, strict=True)
  ]
  exact = special.logsumexp(logs) / 64
  assert np.mean(flow.log_density) == pytest.approx(exact, abs=1e-5)
  if data == 'gaussian':  # every probe is exact
    assert np.ptp(flow.log_density) < 1e-5


@pytest.mark.parametrize('name', likelihood.DEQUANTIZATIONS)
def test_a_uniform_density_has_8_bits(name):
  dequantize = likelihood.DEQUANTIZATIONS[name]
  images = np.arange(256, dtype=np.uint8)
  low, high = dequantize(images, 0.0), dequantize(images, 1.0)
  np.testing.assert_allclose(low[1:], high[:-1], atol=1e-7)
  log_density = -np.log(high[-1] - low[0])
  assert dequantize.bits_per_dim(log_density) == pytest.approx(8)
  if name == 'centered':
    middle = dequantize(images, 0.5)
    np.testing.assert_allclose(middle, images / 127.5 - 1, atol=1e-7)


def gaussian(z, logsnr, mean=MEAN):
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
  return mean + gain * (z - alpha * mean)


@pytest.fixture(scope='module')
def bound():
  """Returns (schedule, num_steps) -> bounds, and the images as x."""
  rng = np.random.RandomState(0)
  x = MEAN + STD * rng.standard_normal((64, 8, 8, 1))
  images = np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)

  @jax.jit(static_argnums=0)
  def bound(schedule, num_steps):
    def noise(i):
      return jax.random.normal(jax.random.key(i), images.shape)

    return likelihood.variational_bound(
      gaussian,
      images,
      noise,
      schedule=schedule,
      num_steps=num_steps,
      clip=False,
    )

  return bound, images / 127.5 - 1


UNIFORM = schedules.get_logsnr_schedule(
  'uniform', logsnr_min=-10.0, logsnr_max=8.0
)


def test_the_bound_of_gaussian_data_tends_to_their_density(bound):
  bound, x = bound
  exact = np.mean(np.log2(127.5) - stats.norm(MEAN, STD).logpdf(x) / np.log(2))
  gaps = [np.mean(bound(UNIFORM, n)) - exact for n in (64, 1024)]
  assert 0 < gaps[1] < 0.05 < gaps[0] / 5


@pytest.mark.parametrize('num_steps', [1, 2, 16])
def test_the_bound_is_ddpm_s_in_its_own_notation(bound, num_steps):
  """Ho et al. 2020, Eqs. 5 to 8 and 13, with the expectation over the noise."""
  bound, x = bound
  times = np.arange(1, num_steps + 1) / num_steps
  abar = special.expit(8 - 18 * times)
  before = np.append(1, abar[:-1])
  beta = 1 - abar / before
  variance = abar * STD**2 + 1 - abar
  error = np.mean((x - MEAN) ** 2) * ((1 - abar) / variance) ** 2
  error += abar * (1 - abar) * (STD**2 / variance) ** 2
  of_x = np.sqrt(before) * beta / (1 - abar)
  beta_tilde = (1 - before) / (1 - abar) * beta
  kl = (of_x**2 * error)[1:] / (2 * beta_tilde[1:])
  last = 1 - abar[-1]
  prior = abar[-1] * np.mean(x**2) + last - 1 - np.log(last)
  # Cells are small beside the standard deviation here, but for the outermost.
  decoder = np.log(2 * np.pi * (1 - abar[0])) + error[0] / (1 - abar[0])
  nats = prior / 2 + kl.sum() + decoder / 2 + np.log(127.5)
  found = np.mean(bound(UNIFORM, num_steps))
  assert found == pytest.approx(nats / np.log(2), rel=0.02)


def test_the_prior_term_is_the_divergence_of_gaussians():
  # The right x at a level of almost no noise costs nothing: only the KL of the
  # prior remains, which is large at log-SNR -2.
  schedule = schedules.get_logsnr_schedule(
    'uniform', logsnr_min=-2.0, logsnr_max=30.0
  )
  images = np.array([0, 100, 255], np.uint8).reshape(3, 1, 1, 1)
  x = images.ravel() / 127.5 - 1
  found = likelihood.variational_bound(
    lambda z, logsnr: images / 127.5 - 1,
    images,
    lambda i: jnp.ones(images.shape),
    schedule=schedule,
    num_steps=4,
    clip=False,
  )
  mean, variance = special.expit(-2) ** 0.5 * x, special.expit(2)
  kl = (mean**2 + variance - 1 - np.log(variance)) / 2
  np.testing.assert_allclose(found, kl / np.log(2), rtol=1e-5)


def test_the_probabilities_of_all_bytes_sum_to_one():
  images = np.arange(256, dtype=np.uint8)
  for mean, std in ((0.3, 0.5), (-1.5, 0.1), (0.98, 1e-3)):
    log_p = likelihood._log_probability(images, mean, std)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-4)
    assert np.isfinite(log_p[::255]).all()


def test_standard_errors_are_of_the_mean():
  assert likelihood.standard_error(np.array([0.0, 2.0])) == pytest.approx(1)
  values = np.random.RandomState(0).standard_normal(10_000)
  assert likelihood.standard_error(values) == pytest.approx(0.01, rel=0.05)


def test_images_are_measured_with_their_class():
  # Every image is the mean of its class.
  means, labels = np.float32([-0.6, 0.6]), np.arange(8) % 2

  def bind(means, condition):
    mean = means[condition['label']][:, None, None, None]
    return lambda z, logsnr: gaussian(z, logsnr, mean)

  # Kernels without forward derivatives are replaced by plain layers.
  plain = types.SimpleNamespace(bind=bind)
  card = types.SimpleNamespace(
    denoiser=lambda: types.SimpleNamespace(plain=lambda: plain),
    schedule=lambda: UNIFORM,
    num_classes=len(means),
    clip=False,
  )
  images = np.round((means[labels] + 1) * 127.5).astype(np.uint8)
  examples = [
    {'image': np.full((2, 2, 1), image), 'label': label}
    for image, label in zip(images, labels, strict=True)
  ]
  found = likelihood.measure(
    types.SimpleNamespace(card=card, weights=means),
    examples,
    len(examples),
    batch_size=len(examples),
    num_steps=16,
  )
  exact = np.log2(127.5 * STD * np.sqrt(2 * np.pi))
  assert found['bits_per_dim'] == pytest.approx(exact, abs=0.01)
  assert found['bits_per_dim_error'] < 0.001


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """Returns the path of a checkpoint of digits, with random weights."""
  path = tmp_path_factory.mktemp('likelihood') / 'teacher'
  config = digits_base.get_config().to_dict()
  config['eval']['batch_size'] = 8
  card = toy.card_at(9).replace(
    objective='denoising', num_classes=1, image_shape=(8, 8, 1), config=config
  )
  weights = jax.tree.map(
    lambda shape: 0.05 * np.ones(shape.shape, np.float32),
    card.denoiser().param_shapes(),
  )
  state = toy.make_state(9).replace(params=weights, ema_params=weights)
  CheckpointFolder(path / 'checkpoints').save(state, card, {})
  return path


def test_the_mode_prints_figures_with_errors(checkpoint, capsys):
  flags = [f'--checkpoint={checkpoint}', '--num_images=10', '--num_steps=3']
  assert run('--mode=likelihood', *flags) is None
  found = json.loads(capsys.readouterr().out)
  for key in ('bits_per_dim', 'bound'):
    assert 0 < found[f'{key}_error'] < found[key]
  about = {'split': 'heldout', 'num_images': 10, 'dequantization': 'centered'}
  assert found.items() >= {**about, 'bound_num_steps': 3}.items()
  assert found['nfe'] > 6


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'split': 'test'}, '--split=test must be heldout or train'),
    ({'dequantization': 'x'}, 'must be centered or score_sde'),
    ({'num_images': 298}, 'must be from 2 to 297, the number of images of'),
  ],
)
def test_bad_values_get_one_line(checkpoint, values, message):
  with pytest.raises(UserError, match=message):
    measure(checkpoint, **values)


def test_a_teacher_of_gamma_noise_has_no_likelihood(tmp_path):
  card = toy.card_at(9).replace(
    objective='denoising', config={'model': {'noise': 'gamma'}}
  )
  folder = CheckpointFolder(tmp_path / 'checkpoints')
  folder.save(toy.make_state(9), card, {})
  with pytest.raises(UserError, match='was trained with gamma noise'):
    measure(tmp_path)


def test_a_student_has_no_likelihood(tmp_path):
  CheckpointFolder(tmp_path / 'checkpoints').save(
    toy.make_state(9), toy.card_at(9), {}
  )
  with pytest.raises(UserError, match='was trained by progressive'):
    measure(tmp_path)
