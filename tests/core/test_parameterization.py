import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import parameterization, process


def edm_output(x, y, k, lowest):
  """F where c_skip y + c_out F = x; data have the standard deviation 1/2."""
  skip = 0.25 / ((k - lowest) ** 2 + 0.25)
  return (x - skip * y) / ((k - lowest) * 0.5 / np.sqrt(k**2 + 0.25))


def case(logsnr):
  rng = np.random.RandomState(3)
  x, eps = rng.standard_normal((2, 2, 4, 4, 3)).astype(np.float32)
  logsnr = jnp.full((2,), logsnr, jnp.float32)
  alpha, sigma = (np.asarray(a)[0] for a in process.alpha_sigma(logsnr))
  z = process.diffuse(x, logsnr, eps)
  # These are a perfect network's outputs, from the definitions of the heads.
  outputs = {
    'x': x,
    'eps': eps,
    'v': alpha * eps - sigma * x,
    'both': np.concatenate([x, eps], axis=-1),
    'edm': edm_output(x, np.asarray(z) / alpha, sigma / alpha, 0.0),
    'edm_consistency': edm_output(
      x, np.asarray(z) / alpha, sigma / alpha, 0.002
    ),
  }
  return x, z, logsnr, outputs


@pytest.mark.parametrize(
  ('mean_type', 'logsnr'),
  list(itertools.product(parameterization.HEADS, (-6.0, 0.0, 9.0))),
)
def test_a_perfect_output_gives_x(mean_type, logsnr):
  x, z, logsnr, outputs = case(logsnr)
  got = parameterization.predict_x(mean_type, outputs[mean_type], z, logsnr)
  np.testing.assert_allclose(got, x, atol=3e-5)


@pytest.mark.parametrize(
  ('first', 'second'), list(itertools.permutations(('x', 'eps', 'v'), 2))
)
def test_round_trip_between_heads(first, second):
  # Any output of one head, written as the other's, is the same prediction.
  _, z, logsnr, _ = case(1.0)
  output = np.random.RandomState(5).standard_normal(z.shape).astype(np.float32)
  x = np.asarray(parameterization.predict_x(first, output, z, logsnr))
  alpha, sigma = (np.asarray(a)[0] for a in process.alpha_sigma(logsnr))
  eps = (z - alpha * x) / sigma
  other = {'x': x, 'eps': eps, 'v': alpha * eps - sigma * x}[second]
  got = parameterization.predict_x(second, jnp.asarray(other), z, logsnr)
  np.testing.assert_allclose(got, x, atol=1e-5)


def test_both_weighs_its_parts_by_sigma_and_alpha_squared():
  # sigma^2 x~ + alpha^2 (the x of eps~), the latter by the eps head.
  _, z, logsnr, _ = case(0.7)
  rng = np.random.RandomState(4)
  out_x, out_eps = rng.standard_normal((2, *z.shape)).astype(np.float32)
  got = parameterization.predict_x(
    'both', jnp.concatenate([out_x, out_eps], -1), z, logsnr
  )
  alpha, sigma = (np.asarray(a)[0] for a in process.alpha_sigma(logsnr))
  of_eps = parameterization.predict_x('eps', out_eps, z, logsnr)
  np.testing.assert_allclose(
    got, sigma**2 * out_x + alpha**2 * of_eps, atol=1e-5
  )


@pytest.mark.parametrize('name', ['edm', 'edm_consistency'])
def test_edm_scales_its_input_to_the_variance_1(name):
  logsnr = jnp.linspace(-8, 8, 5)
  alpha, sigma = process.alpha_sigma(logsnr)
  z = jnp.sqrt((alpha / 2) ** 2 + sigma**2)[:, None, None, None]
  scaled = parameterization.network_input(name, z, logsnr)
  np.testing.assert_allclose(scaled, np.ones_like(z), rtol=1e-6)


def test_heads_state_their_output_channels():
  assert parameterization.get_head('v').output_channels == 1
  assert parameterization.get_head('both').output_channels == 2


def test_unknown_head_lists_the_known_ones():
  z = jnp.zeros((1, 1))
  with pytest.raises(ValueError, match='x, eps, v, both'):
    parameterization.predict_x('score', z, z, jnp.zeros(1))
  with pytest.raises(ValueError, match='x, eps, v, both'):
    parameterization.get_head('score')


@pytest.mark.parametrize(
  ('alias', 'name'),
  [
    ('sample', 'x'),
    ('epsilon', 'eps'),
    ('v_prediction', 'v'),
    ('both', 'both'),
  ],
)
def test_the_names_of_other_tools_mean_the_same(alias, name):
  z, logsnr = jnp.full((2, 1, 1, 2), 0.3), jnp.array([-1.0, 2.0])
  output = jnp.arange(8.0).reshape(2, 1, 1, 4)
  output = output if name == 'both' else output[..., :2]
  np.testing.assert_array_equal(
    parameterization.predict_x(alias, output, z, logsnr),
    parameterization.predict_x(name, output, z, logsnr),
  )
  assert parameterization.canonical(alias) == name
  head = parameterization.get_head(alias)
  assert 2 * head.output_channels == output.shape[-1]
