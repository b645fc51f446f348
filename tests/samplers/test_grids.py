"""Time grids, against the subsequences and levels that define them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import schedules
from diffusion_distillation.samplers import GRIDS
from diffusion_distillation.samplers.grids import make_grid

SCHEDULE = schedules.get_logsnr_schedule('cosine')


def falling(grid, num_steps, schedule=SCHEDULE, **options):
  """Returns the num_steps + 1 times from noise to data, in float64."""
  time = make_grid(grid, schedule, **options)
  times = jax.jit(time)(jnp.arange(num_steps, -1, -1), num_steps)
  return np.asarray(times, np.float64)


@pytest.mark.parametrize('name', ['cosine', 'uniform'])
@pytest.mark.parametrize('known', [True, False])
def test_the_time_of_a_noise_level_is_the_inverse_of_the_schedule(name, known):
  schedule = schedules.get_logsnr_schedule(name, logsnr_min=-15.0)
  given = schedule if known else schedule.logsnr  # by bisection
  t = jnp.linspace(0, 1, 41)
  found = schedules.time_at(given, schedule(t))
  np.testing.assert_allclose(found, t, atol=3e-7)
  beyond = schedules.time_at(given, jnp.array([-99.0, 99.0]))
  np.testing.assert_allclose(beyond, [1, 0], atol=1e-7)


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('num_steps', [1, 2, 7, 100])
def test_every_grid_falls_to_data(grid, num_steps):
  times = falling(grid, num_steps)
  assert times[0] <= 1 and times[-1] == 0
  assert (np.diff(times) <= 0).all() and (times[:-1] > 0).all()


def test_uniform_and_quadratic_are_powers_of_a_fraction():
  fraction = np.arange(8, -1, -1) / 8
  np.testing.assert_allclose(falling('uniform', 8), fraction, atol=1e-7)
  np.testing.assert_allclose(falling('quadratic', 8), fraction**2, atol=1e-7)


def test_logsnr_has_steps_of_equal_length():
  levels = SCHEDULE(jnp.asarray(falling('logsnr', 8)[:-1], jnp.float32))
  np.testing.assert_allclose(levels, -20 + 5 * np.arange(8), atol=6e-3)
  options = {'logsnr_min': -8.0, 'logsnr_max': 8.0}
  levels = SCHEDULE(
    jnp.asarray(falling('logsnr', 4, **options)[:-1], jnp.float32)
  )
  np.testing.assert_allclose(levels, [-8, -4, 0, 4], atol=1e-4)


@pytest.mark.parametrize('rho', [1.0, 7.0])
def test_karras_levels_are_equally_far_apart_in_their_root(rho):
  options = {'rho': rho, 'sigma_min': 0.02, 'sigma_max': 50.0}
  times = falling('karras', 6, **options)
  sigmas = np.exp(-np.asarray(SCHEDULE(jnp.asarray(times[:-1]))) / 2)
  want = np.linspace(50 ** (1 / rho), 0.02 ** (1 / rho), 6) ** rho
  np.testing.assert_allclose(sigmas, want, rtol=2e-4)


def test_a_karras_grid_may_leave_out_its_lowest_level():
  times = falling('karras:include_min=False', 2)
  want = np.append(np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 3)[:2] ** 7, 0)
  got = np.exp(-np.asarray(SCHEDULE(jnp.asarray(times))) / 2)
  np.testing.assert_allclose(got[:2], want[:2], rtol=2e-4)
  assert times[-1] == 0


def test_noise_levels_may_be_given():
  for num_steps, want in ((1, [80]), (2, [80, 0.8]), (3, [80, 0.8, 0.8])):
    times = jnp.asarray(falling('sigmas:levels=80/0.8', num_steps)[:-1])
    got = np.exp(-np.asarray(SCHEDULE(times)) / 2)
    np.testing.assert_allclose(got, want, rtol=2e-4)
  for wrong in ('', '80/', '1/2', '2/0', 'inf/1', 'a'):
    with pytest.raises(ValueError, match='must be falling numbers above 0'):
      make_grid(f'sigmas:levels={wrong}', SCHEDULE)


def trained(grid, num_steps):
  """Returns those of 1,000 trained steps at which the network is evaluated."""
  steps = np.round(falling(grid, num_steps)[:-1] * 1000).astype(int) - 1
  return steps[::-1].tolist()


@pytest.mark.parametrize('num_steps', [5, 10, 20, 50, 100, 1000])
def test_linear_and_quad_are_the_subsequences_of_ddim(num_steps):
  linear = list(range(0, 1000, 1000 // num_steps))
  assert trained('linear', num_steps) == linear
  quad = np.linspace(0, np.sqrt(1000 * 0.8), num_steps) ** 2
  assert trained('quad', num_steps) == [int(step) for step in quad]


def test_exponential_has_all_powers_of_two_in_twelve_steps():
  powers = [2**k for k in range(10)]
  assert trained('exponential', 12) == [0, *powers, 999]


def test_the_last_and_the_first_hundred_steps():
  assert trained('last100', 101) == [*range(100), 999]
  want = [*range(100), *range(900, 1000)]
  assert trained('first_last100', 200) == want


def test_another_number_of_trained_steps():
  times = falling('linear', 4, trained_steps=8)
  np.testing.assert_allclose(times, [7 / 8, 5 / 8, 3 / 8, 1 / 8, 0])


def test_more_steps_than_trained_ones_and_a_single_one():
  times = falling('linear', 6, trained_steps=4)
  np.testing.assert_allclose(times, [1, 1, 1, 3 / 4, 2 / 4, 1 / 4, 0])
  # A single step of `quad` starts at its noisiest step, 0.8 T.
  assert trained('quad', 1) == [800]
