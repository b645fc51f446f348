import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import losses


def errors():
  """Mean squared x-, eps- and v-errors of one prediction, in float64."""
  rng = np.random.RandomState(0)
  logsnr = np.array([-7.0, -0.3, 0.4, 8.0])
  alpha = ((1 + np.exp(-logsnr)) ** -0.5)[:, None, None, None]
  sigma = ((1 + np.exp(logsnr)) ** -0.5)[:, None, None, None]
  x, x_hat, eps = rng.standard_normal((3, 4, 5, 5, 2))
  z = alpha * x + sigma * eps
  eps_hat = (z - alpha * x_hat) / sigma
  v, v_hat = alpha * eps - sigma * x, alpha * eps_hat - sigma * x_hat
  mse = [
    ((a - b) ** 2).mean((1, 2, 3))
    for a, b in ((x, x_hat), (eps, eps_hat), (v, v_hat))
  ]
  return (
    x.astype(np.float32),
    x_hat.astype(np.float32),
    jnp.asarray(logsnr, jnp.float32),
    *mse,
  )


def test_each_weighting_is_the_loss_it_is_named_after():
  x, x_hat, logsnr, x_mse, eps_mse, v_mse = errors()
  wanted = {
    'constant': x_mse,
    'snr': eps_mse,
    'snr_trunc': np.maximum(x_mse, eps_mse),
    'v_mse': v_mse,
    'karras': 3 * x_mse + v_mse,
  }
  assert set(wanted) == set(losses.WEIGHTS)
  for name, want in wanted.items():
    got = losses.weighted_mse(name, x, x_hat, logsnr)
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)


def test_distances():
  target, x_hat = np.zeros((2, 3, 4, 1)), np.zeros((2, 3, 4, 1))
  x_hat[0, 0] = [[3], [0], [0], [-4]]
  wanted = {
    'mse': [25 / 12, 0],
    'l1': [7 / 12, 0],
    'norm': [5, 0],
    'huber': [np.sqrt(25 + 12 * 0.00054**2) - 0.00054 * np.sqrt(12), 0],
  }
  assert set(wanted) == set(losses.DISTANCES)
  for name, want in wanted.items():
    distance = losses.get_distance(name)
    np.testing.assert_allclose(distance(target, x_hat), want, rtol=1e-6)
    if name == 'l1':  # which has an edge where the images are equal
      continue
    slope = jax.grad(lambda x, d=distance: d(jnp.zeros_like(x), x)[1])(
      jnp.asarray(x_hat)
    )
    np.testing.assert_array_equal(slope, np.zeros_like(x_hat))
  with pytest.raises(ValueError, match='known: mse, l1, huber, norm'):
    losses.get_distance('lpips')


def test_unknown_weighting_lists_the_known_ones():
  with pytest.raises(ValueError, match='constant, snr, snr_trunc, v_mse'):
    losses.weight('snr+1', jnp.zeros(2))


def test_the_names_of_other_tools_mean_the_same():
  logsnr = jnp.linspace(-3, 3, 7)
  for alias, name in (
    ('truncated_snr', 'snr_trunc'),
    ('snr_plus_one', 'v_mse'),
  ):
    np.testing.assert_array_equal(
      losses.weight(alias, logsnr), losses.weight(name, logsnr)
    )
