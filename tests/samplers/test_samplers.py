import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules
from diffusion_distillation.samplers import (
  SAMPLERS,
  Step,
  canonical,
  make_sampler,
  sample,
)

SCHEDULE = schedules.get_logsnr_schedule('cosine')
KEY = jax.random.key(0)  # for the methods that draw noise
C = 0.5  # x ~ N(0, C^2) has an exact denoiser and an exact flow


def gaussian_denoise(z, logsnr):
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  return alpha * C**2 * z / (alpha**2 * C**2 + sigma**2)


def noise(shape=(4, 2, 2, 1), seed=0):
  z = np.random.RandomState(seed).standard_normal(shape)
  return jnp.asarray(z, jnp.float32)


def run(num_steps, denoise=gaussian_denoise, z_1=None, **kwargs):
  z_1 = noise() if z_1 is None else z_1
  return sample(denoise, z_1, schedule=SCHEDULE, num_steps=num_steps, **kwargs)


def test_ddim_converges_to_the_exact_flow_at_order_1():
  # From t = 1, where z_1 ~ N(0, 1) to 1e-9, the flow scales by C.
  steps = np.array([16, 32, 64, 128, 256])
  errors = [
    np.abs(np.asarray(run(int(n), clip=False)) - C * noise()).max()
    for n in steps
  ]
  order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
  assert 0.9 < order < 1.1


@pytest.mark.parametrize('gamma', [0.0, 0.3, 1.0])
def test_ancestral_sampling_reaches_the_data_s_variance(gamma):
  # Any variance between the bounds is right in the limit of many steps.
  z_1 = noise((1, 200, 200, 1))
  x = run(
    256,
    z_1=z_1,
    sampler='ancestral',
    gamma=gamma,
    clip=False,
    key=KEY,
  )
  assert abs(float(jnp.mean(x))) < 4 * C / 200
  assert abs(float(jnp.std(x)) - C) < 0.02 * C


def test_ancestral_sampling_draws_noise_between_its_bounds():
  # The first of two steps ends at s > 0. Its z_s less the mean is the noise of
  # the posterior.
  kwargs = {'sampler': 'ancestral', 'clip': False, 'key': KEY}
  z_1 = noise((1, 100, 100, 1))

  def nothing(z, logsnr):
    # The last step returns its prediction, so predicting z there returns z.
    last = process.expand(logsnr > -1, z)
    return jnp.where(last, z, 0)

  for gamma in (0.0, 1.0):
    got = run(2, nothing, z_1, gamma=gamma, **kwargs)
    half = jnp.zeros(1)  # logsnr at t = 1/2
    mean, std = process.posterior(z_1, 0 * z_1, -20 + half, half, gamma)
    drawn = np.asarray(got - mean)
    np.testing.assert_allclose(drawn.std(), std.item(), rtol=0.03)


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_one_step_is_ddim_and_the_last_of_three_returns_x_hat(sampler):
  levels = []
  x = jnp.linspace(-1, 1, 16).reshape(4, 2, 2, 1)

  def denoise(z, logsnr):
    # From t < 1 the prediction is x, whatever came before.
    jax.debug.callback(lambda v: levels.append(float(v)), logsnr[0])
    is_noise = process.expand(logsnr < -19, z)
    return jnp.where(is_noise, gaussian_denoise(z, logsnr), x)

  program = jax.jit(lambda n: run(n, denoise, sampler=sampler, key=KEY))
  want = gaussian_denoise(noise(), SCHEDULE(jnp.ones(4)))
  np.testing.assert_allclose(program(1), jnp.clip(want, -1, 1), atol=1e-7)
  levels.clear()
  np.testing.assert_array_equal(program(3), x)
  jax.effects_barrier()
  assert len(levels) == make_sampler(sampler).nfe(3)
  assert np.all(np.isfinite(levels))


# gamma_ddim leaves an error of 5%: see test_gamma.py. The sampler of
# consistency models takes x_hat for the end of the path, and not for a mean.
@pytest.mark.parametrize(
  'sampler', [s for s in SAMPLERS if s not in ('gamma_ddim', 'consistency')]
)
def test_every_sampler_arrives_at_the_data_in_float32(sampler):
  # The whole range includes the ends, where alpha or sigma is near 0.
  x = run(512, z_1=noise((1, 64, 64, 1)), sampler=sampler, key=KEY, clip=False)
  assert abs(float(jnp.std(x)) - C) < 0.02


@pytest.mark.parametrize('num_steps', [1, 2, 5])
def test_a_consistency_model_draws_the_data_in_any_number_of_steps(num_steps):
  # The end of the probability flow of data ~ N(0, C^2) from z.
  def flow_end(z, logsnr):
    alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
    return C * z / jnp.sqrt((alpha * C) ** 2 + sigma**2)

  x = run(
    num_steps,
    flow_end,
    z_1=noise((1, 64, 64, 1)),
    sampler='consistency',
    key=KEY,
    clip=False,
  )
  # One number in sqrt(2 * 4096) is the error of the standard deviation.
  assert abs(float(jnp.std(x)) - C) < 4 * C / np.sqrt(2 * 64**2)


def test_equal_keys_draw_equal_images_and_others_do_not():
  for sampler in ('ancestral', 'stochastic'):
    first, again, other = (
      run(4, sampler=sampler, key=jax.random.key(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).min()) > 0


def test_the_network_is_evaluated_at_n_over_n_down_to_1_over_n():
  levels = []

  def recording(z, logsnr):
    jax.debug.callback(
      lambda v: levels.append(float(v)), logsnr[0], ordered=True
    )
    return z

  run(4, recording).block_until_ready()
  want = SCHEDULE(jnp.array([1.0, 0.75, 0.5, 0.25]))
  np.testing.assert_allclose(levels, want, atol=1e-5)


def test_clip_bounds_every_prediction_only_where_asked():
  def far(z, logsnr):
    return 3 * jnp.ones_like(z)

  np.testing.assert_array_equal(run(4, far, clip=True), 1)
  np.testing.assert_array_equal(run(4, far, clip=False), 3)


def test_a_traced_step_count_gives_the_same_and_compiles_once():
  traces = []

  @jax.jit
  def sampler(num_steps):
    traces.append(num_steps)
    return run(num_steps)

  for n in (1, 5, 8):
    np.testing.assert_allclose(sampler(jnp.int32(n)), run(n), atol=1e-6)
  assert len(traces) == 1


def test_an_image_depends_on_its_own_key_alone():
  keys = jax.random.split(jax.random.key(3), 4)
  kwargs = {'sampler': 'ancestral', 'gamma': 0.5}
  together = run(5, key=keys, **kwargs)
  alone = run(5, z_1=noise()[2:3], key=keys[2:3], **kwargs)
  np.testing.assert_allclose(together[2:3], alone, atol=1e-6)
  assert float(jnp.abs(together[0] - together[1]).min()) > 0


def test_old_style_keys_are_accepted():
  new = run(3, sampler='ancestral', key=jax.random.key(7))
  old = run(3, sampler='ancestral', key=jax.random.PRNGKey(7))
  np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'sampler': 'ddpm'}, 'ddim, ancestral'),
    ({'grid': 'karas'}, 'unknown time grid.*uniform'),
    ({'grid': 'karras:rho=x'}, "option rho of time grid 'karras' must be fl"),
    ({'grid': 'karras', 'rho': 0.5}, '1 <= rho <= 100 are needed'),
    ({'grid': 'karras', 'sigma_max': np.inf}, 'sigma_max .*, got 0.002, inf'),
    ({'grid': 'logsnr:logsnr_max=nan'}, 'got None and nan'),
    ({'grid': 'logsnr:logsnr_min=5,logsnr_max=-5'}, 'got 5.0 and -5.0'),
    ({'grid': 'quad:trained_steps=99999999999'}, 'from 1 to 1048576'),
    ({'grid': [1.0, 0.5, 0.0], 'rho': 5.0}, "has no option 'rho'"),
    ({'grid': [1.0, 0.0]}, 'grid of 3 times, got 2'),
    ({'grid': [[1.0, 0.5, 0.0]] * 3}, 'shape'),
    ({'grid': [0.0, 0.5, 1.0]}, 'falls from .* its time 1 is 0.5'),
    ({'grid': [1.5, 0.5, 0.0]}, 'at most 1 .* time 0 is 1.5'),
    ({'grid': [1.0, 0.5, -0.1]}, 'at least 0 .* time 2 is -0.1'),
    ({'grid': [1.0, np.nan, 0.0]}, 'time 1 is nan'),
    ({'sampler': 'ddim@karas'}, 'unknown time grid.*uniform'),
    ({'num_steps': 0}, 'at least 1'),
    ({'sampler': 'ancestral'}, 'pass a key'),
    ({'sampler': 'stochastic'}, 'pass a key'),
    ({'gamma': 0.5}, "'ddim' has no option 'gamma'; known: eta"),
    ({'sampler': 'heun', 'eta': 0.5}, 'it has none'),
    ({'sampler': 'ancestral', 'eta': 0.5}, 'known: gamma'),
    ({'sampler': 'ancestral:gamma=2', 'key': KEY}, r'in \[0, 1\], got 2'),
    ({'sampler': 'ancestral:gamma=x', 'key': KEY}, "must be float, got 'x'"),
    ({'sampler': 'ancestral:gamma=0,gamma=1', 'key': KEY}, 'an option twice'),
  ],
)
def test_invalid_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    run(**{'num_steps': 2, **kwargs})


def test_a_sampler_has_one_canonical_spelling():
  for spelling in ('ancestral', 'ancestral:', 'ancestral:gamma=1.0'):
    assert canonical(spelling) == 'ancestral'
  for spelling in ('ancestral:gamma=3e-1', 'ancestral: gamma = 0.30'):
    assert canonical(spelling) == 'ancestral:gamma=0.3'
  for spelling in ('ancestral:gamma=0', 'ancestral:gamma=-0'):
    assert canonical(spelling) == 'ancestral:gamma=0'
  wrong = 'heun:order=2', 'heun@heun', 'ancestral:gamma=7'
  for spelling in (*wrong, 'ancestral:gamma'):
    with pytest.raises(ValueError, match=r'heun|gamma'):
      canonical(spelling)


def test_an_option_without_a_value_is_none(monkeypatch):
  made = []

  def factory(eta: float | None = None):
    made.append(eta)
    return make_sampler('ddim')

  monkeypatch.setitem(SAMPLERS, 'toy', factory)
  assert canonical('toy:eta=None') == 'toy'
  assert canonical('toy:eta=0.50') == 'toy:eta=0.5'
  assert made == [None, 0.5]
  with pytest.raises(ValueError, match="must be float, got 'x'"):
    canonical('toy:eta=x')


def test_a_time_grid_may_be_spelled_or_given():
  assert canonical('ddim@uniform') == canonical('ddim@') == 'ddim'
  assert canonical('ancestral:gamma=0.50@karras:rho=7') == (
    'ancestral:gamma=0.5@karras'
  )
  assert canonical('ddim@karras: rho=5.0') == 'ddim@karras:rho=5'
  spelled = run(3, sampler='ddim@karras:rho=5')
  for given in (
    {'grid': 'karras:rho=5'},
    {'grid': 'karras', 'rho': 5.0},
    {'sampler': 'ddim@karras', 'rho': 5.0},
  ):
    np.testing.assert_array_equal(run(3, **given), spelled)
  assert np.abs(spelled - run(3)).min() > 0
  assert np.abs(spelled - run(3, grid='karras')).min() > 0
  # An explicit argument overrides the spelling, as with all options.
  both = run(3, sampler='ddim@karras', grid='uniform')
  np.testing.assert_array_equal(both, run(3))


def test_options_may_be_spelled_or_given():
  spelled, given = (
    run(3, key=KEY, sampler=sampler, **options)
    for sampler, options in (
      ('ancestral:gamma=0.3', {}),
      ('ancestral', {'gamma': 0.3}),
    )
  )
  np.testing.assert_array_equal(spelled, given)


def test_an_explicit_grid_gives_the_times():
  times = [0.9, 0.6, 0.1, 0.0]
  levels = []

  def recording(z, logsnr):
    jax.debug.callback(
      lambda v: levels.append(float(v)), logsnr[0], ordered=True
    )
    return gaussian_denoise(z, logsnr)

  run(3, recording, grid=times).block_until_ready()
  np.testing.assert_allclose(levels, SCHEDULE(jnp.array(times[:3])), atol=1e-5)
  # The times of a named grid give the same images as its name.
  np.testing.assert_array_equal(run(4, grid=np.linspace(1, 0, 5)), run(4))


def test_a_step_between_equal_times_changes_nothing():
  # Grids of integer steps may repeat a step, such as DDIM's quadratic one.
  once, twice = run(2, grid=[0.9, 0.6, 0.0]), run(3, grid=[0.9, 0.6, 0.6, 0.0])
  np.testing.assert_allclose(twice, once, atol=1e-6)


def test_times_may_be_traced():
  times = jnp.array([0.9, 0.4, 0.0])
  got = jax.jit(lambda times: run(2, grid=times))(times)
  np.testing.assert_allclose(got, run(2, grid=times), atol=1e-6)
  # Known values are checked under jit, too.
  with pytest.raises(ValueError, match='a time grid falls'):
    jax.jit(lambda: run(2, grid=np.asarray(times)[::-1]))()


def test_a_grid_that_ends_above_0_returns_noisy_images():
  got = run(1, grid=[0.9, 0.4], clip=False)
  t, s = SCHEDULE(jnp.full(4, 0.9)), SCHEDULE(jnp.full(4, 0.4))
  want = process.ddim_step(noise(), gaussian_denoise(noise(), t), t, s)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_too_little_noise_is_refused():
  with pytest.raises(AssertionError, match="axis '0' but got '3'"):
    run(4, sampler='ancestral', noise=jnp.zeros((3, *noise().shape)))


def test_given_noise_takes_the_place_of_a_key():
  drawn = jnp.stack([noise(seed=seed) for seed in (1, 2, 3)])
  got = run(3, sampler='ancestral', noise=drawn, clip=False)
  z = noise()
  levels = [SCHEDULE(jnp.full(4, time)) for time in (1, 2 / 3, 1 / 3)]
  for i, (t, s) in enumerate(itertools.pairwise(levels)):
    mean, std = process.posterior(z, gaussian_denoise(z, t), t, s, 1.0)
    z = mean + std * drawn[i]
  want = gaussian_denoise(z, levels[-1])
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_euler_in_t_and_in_log_snr_follow_their_own_tangents():
  # One step of both from t = 1/2 to t = 1/4, by hand in float64.
  schedule = schedules.get_logsnr_schedule('cosine')
  angle = np.pi / 2 * 0.5
  z, x_hat = 0.7, 0.2
  alpha = np.cos(angle)
  flow = alpha * (x_hat - alpha * z) / 2  # dz / dlogsnr
  logsnr = [-2 * np.log(np.tan(np.pi / 2 * t)) for t in (0.5, 0.25)]
  # d/dt of -2 log tan(pi t / 2) is -2 pi / sin(pi t).
  slope = -2 * np.pi / np.sin(np.pi * 0.5)
  want = {
    'euler': z + (logsnr[1] - logsnr[0]) * flow,
    'euler_t': z - 0.25 * slope * flow,
  }
  like = jnp.ones((1, 1, 1, 1))
  step = Step(None, schedule, schedules.fraction, jnp.array([1]), 4)
  for name, value in want.items():
    got, _ = make_sampler(name).step(z * like, x_hat * like, step, ())
    np.testing.assert_allclose(got.item(), value, rtol=1e-4)
