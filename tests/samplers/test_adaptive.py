"""The adaptive integrator: its accuracy, its evaluations and its failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process
from diffusion_distillation.samplers import adaptive
from tests.samplers import mixture

CALLS = []
_, EXACT = mixture.read('solvers')


@pytest.fixture(scope='module')
def solve():
  """Returns (z, log-SNR of start and end, tolerance) -> z, NFE."""

  def denoise(z, logsnr):
    jax.debug.callback(lambda: CALLS.append(1))
    z = jnp.where(process.expand(logsnr, z) > 30, jnp.nan, z)
    return mixture.denoiser('mixture')(z, logsnr)

  @jax.jit
  def solve(z, start, end, tolerance):
    return adaptive.integrate(
      denoise,
      z,
      schedule=lambda t: jnp.where(t == 1, start, end),
      rtol=tolerance,
      atol=tolerance,
    )

  return lambda z, *numbers: solve(jnp.asarray(z, float), *numbers)


@pytest.mark.parametrize(
  ('name', 'start', 'end'),
  [('mixture_-10_to_4', -10.0, 4.0), ('mixture_-20_to_20', -20.0, 20.0)],
)
def test_it_meets_the_exact_flow_both_ways(solve, name, start, end):
  noise, data = EXACT[f'{name}/start'], EXACT[f'{name}/end']
  found, _ = solve(noise, start, end, 1e-7)
  np.testing.assert_allclose(found, data, atol=2e-6)
  back, _ = solve(data, end, start, 1e-7)
  np.testing.assert_allclose(back, noise, atol=2e-5)


def test_evaluations_are_counted_and_a_small_tolerance_needs_more(solve):
  errors, counts = [], []
  for tolerance in (1e-3, 1e-5):
    CALLS.clear()
    found, nfe = solve(EXACT['mixture_-10_to_4/start'], -10.0, 4.0, tolerance)
    jax.effects_barrier()
    assert len(CALLS) == nfe
    errors.append(np.abs(found - EXACT['mixture_-10_to_4/end']).max())
    counts.append(nfe)
  assert 1e-5 < errors[0] < 1e-2 and errors[1] < 5e-5
  assert counts[0] < counts[1] < 120


def test_equal_times_change_nothing(solve):
  z = np.ones((2, 8, 8, 1))
  found, nfe = solve(z, 1.0, 1.0, 1e-5)
  np.testing.assert_array_equal(found, z)
  assert nfe == 1


def test_a_network_that_is_not_finite_fails_soon(solve):
  found, nfe = solve(np.ones((2, 8, 8, 1)), 40.0, 4.0, 1e-5)
  assert np.isnan(found).all() and nfe < 100


def test_the_steps_are_those_of_the_worst_image():
  error = {'z': jnp.array([[0.0, 0.0], [3.0, 3.0]]), 'p': jnp.array([1.0, 0.0])}
  assert adaptive._worst_image(error) == 3
