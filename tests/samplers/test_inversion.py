"""From images to noise and back, on data whose flow is known, and slerp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.samplers import inversion, sample
from tests.samplers import mixture

CASES, ARRAYS = mixture.read('chain')
DENOISE = mixture.denoiser()
COSINE, DDPM = (mixture.SCHEDULES[name] for name in ('cosine', 'ddpm'))
STEPS = 16


def gaussian():
  """Mean and standard deviation of the data 'gaussian'."""
  arrays = np.load(mixture.FOLDER / 'denoiser.npz')
  return arrays['gaussian/means'], arrays['gaussian/stds'][0]


def test_encodings_are_those_of_the_original():
  name = 'encode_quad_10'
  times = np.float32(ARRAYS[f'{name}/t'])
  x = jnp.asarray(ARRAYS[f'{name}/x'], jnp.float32)

  @jax.jit
  def run(x):
    given = {'schedule': DDPM, 'grid': times, 'clip': False}
    steps = len(times) - 1
    z = inversion.encode(DENOISE, x, num_steps=steps, **given)
    return z, sample(DENOISE, z, num_steps=steps, **given)

  z, again = run(x)
  atol = max(1e-5, 10 * CASES[name]['float32_error'])
  np.testing.assert_allclose(z, ARRAYS[f'{name}/z_out'], atol=atol)
  np.testing.assert_allclose(again, ARRAYS[f'{name}/decoded_again'], atol=atol)


def test_the_noise_of_gaussian_data_is_that_of_the_exact_flow():
  mean, std = gaussian()
  x = mean + std * jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  denoise = mixture.denoiser('gaussian')

  @jax.jit
  def run(x, num_steps):
    given = {'schedule': COSINE, 'num_steps': num_steps, 'clip': False}
    z_1 = inversion.encode(denoise, x, **given)
    return z_1, sample(denoise, z_1, **given)

  # The flow maps x to (x - mean) / std, up to alpha_1 = 5e-5.
  errors = []
  for num_steps in (64, 256):
    z_1, again = run(x, num_steps)
    errors.append(
      [np.abs(z_1 - (x - mean) / std).max(), np.abs(again - x).max()]
    )
  np.testing.assert_array_less(np.divide(*errors[::-1]), 0.35)  # order 1: 1/4
  np.testing.assert_array_less(errors[1], 0.05)


def test_iterations_make_the_inverse_exact():
  z_1 = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
  given = {'schedule': COSINE, 'num_steps': STEPS, 'clip': False}

  @jax.jit
  def run(iterations):
    x = sample(DENOISE, z_1, **given)
    found = inversion.encode(DENOISE, x, iterations=iterations, **given)
    return jnp.abs(sample(DENOISE, found, **given) - x).max()

  errors = [float(run(iterations)) for iterations in (0, 3, 30)]
  assert errors[1] < errors[0] / 3
  assert errors[2] < errors[0] / 100


@pytest.mark.parametrize(('clip', 'x_hat'), [(True, 1), (False, 3)])
def test_encoding_clips_predictions_if_asked(clip, x_hat):
  x = jnp.full((1, 1, 1, 1), 0.5)
  z_1 = inversion.encode(
    lambda z, logsnr: jnp.full_like(z, 3),
    x,
    schedule=COSINE,
    num_steps=2,
    grid=[0.75, 0.5, 0.25],
    clip=clip,
  )
  # With a constant x_hat, the noise (z - alpha x_hat) / sigma is constant. The
  # angle of the schedule is t pi / 2, up to 5e-5 by its limits of log-SNR.
  (a, s), (a_1, s_1) = (
    (np.cos(angle), np.sin(angle)) for angle in np.pi / 8 * np.array([1, 3])
  )
  want = a_1 * x_hat + s_1 * (0.5 - a * x_hat) / s
  np.testing.assert_allclose(z_1.item(), want, atol=1e-3)


def test_the_phantom_gradient_is_that_of_the_original():
  name = 'inversion_uniform_10_tau0.1_pg1'
  x_0, target, t = (
    jnp.asarray(ARRAYS[f'{name}/{key}'], jnp.float32)
    for key in ('x_0', 'target', 't')
  )
  gradient = inversion.phantom_gradient(x_0, target, DDPM(t[0]), tau=0.1)
  want = ARRAYS[f'{name}/grad_z_1']
  np.testing.assert_allclose(gradient, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('by', ['deq', 'backprop'])
def test_the_noise_of_an_image_is_found(by):
  x, z_1 = jax.random.normal(jax.random.key(1), (2, 2, 8, 8, 1))
  x = sample(DENOISE, x, schedule=COSINE, num_steps=8)
  # optax mixes dtypes, which JAX's strict promotion refuses.
  with jax.numpy_dtype_promotion('standard'):
    found = inversion.invert(
      DENOISE,
      x,
      z_1,
      schedule=COSINE,
      num_steps=8,
      updates=30,
      by=by,
      learning_rate=0.1,
      **({'method': 'picard:tol=0.01'} if by == 'deq' else {}),
    )
  assert found.losses.shape == (30, 2)
  assert (found.losses[-1] < found.losses[0] / 3).all()
  assert (np.diff(found.seconds) > 0).all()
  again = sample(DENOISE, found.z_1, schedule=COSINE, num_steps=8)
  loss = np.sum((again - x) ** 2, axis=(1, 2, 3))
  np.testing.assert_allclose(loss, found.losses[-1], rtol=0.5, atol=0.1)


def test_options_are_refused_where_there_are_none():
  with pytest.raises(ValueError, match='backprop has no options, got method'):
    inversion.invert(
      DENOISE,
      0,
      0,
      schedule=COSINE,
      num_steps=1,
      updates=1,
      by='backprop',
      method='picard',
    )
  with pytest.raises(ValueError, match='grid of 4 times'):
    inversion.encode(
      DENOISE, jnp.zeros(()), schedule=COSINE, num_steps=3, grid=[1.0, 0.0]
    )


def test_unknown_gradients_are_refused():
  with pytest.raises(ValueError, match='known: backprop, deq'):
    inversion.invert(
      DENOISE, 0, 0, schedule=COSINE, num_steps=1, updates=1, by='magic'
    )


def test_points_between_noise_are_those_of_the_original():
  # The original takes the angle between whole arrays, here of one image each.
  a, b = jnp.asarray(ARRAYS['slerp/z_1'], jnp.float32)
  weight = jnp.linspace(0, 1, 11)
  points = inversion.slerp(
    *(jnp.broadcast_to(end, (11, *end.shape)) for end in (a, b)), weight
  )
  np.testing.assert_allclose(points, ARRAYS['slerp/points'], atol=4e-6)
  np.testing.assert_array_equal(points[0], a)


def test_points_between_near_and_equal_noise_are_on_the_line():
  a = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
  near = jnp.array([0, 1e-7, 1e-4])[:, None, None, None]
  b = a * (1 + near)
  got = inversion.slerp(a, b, jnp.full(3, 0.25))
  np.testing.assert_allclose(got, 0.75 * a + 0.25 * b, atol=1e-6)
