"""Time grids: where the steps of a sampler begin and end.

A grid is a function schedule -> time(index, num_steps), which a factory makes;
the factory's keyword arguments are the options of the grid. `time` maps ints,
or int arrays, with index in [0, num_steps] to times. Times rise with the index,
from the end of sampling (0, data) to its start (1, noise). The number of steps
may be traced: one compilation serves every step count of a grid.

A grid that starts below t = 1 takes standard normal noise for a noisy image at
its first time. This neglects the data, whose share is alpha there.
"""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core import schedules
from diffusion_distillation.core.schedules import fraction
from diffusion_distillation.runtime import spelling


def uniform():
  """Returns the grid index / num_steps, on which students are trained."""
  return lambda schedule: fraction


def quadratic():
  """Returns (index / num_steps)^2, the `time_quadratic` of DPM-Solver."""
  return lambda schedule: lambda index, n: fraction(index, n) ** 2


def logsnr(logsnr_min: float | None = None, logsnr_max: float | None = None):
  """Returns the grid with steps of equal length in log-SNR.

  The last step starts one such length below logsnr_max, and ends at data.

  Args:
    logsnr_min: log-SNR of the first time; the schedule's at t = 1 by default.
    logsnr_max: log-SNR that the spacing aims at; the schedule's at t = 0 by
      default.

  Raises:
    ValueError: a value is not finite, or logsnr_min is not below logsnr_max.
  """
  given = [level for level in (logsnr_min, logsnr_max) if level is not None]
  if not all(map(math.isfinite, given)) or given != sorted(set(given)):
    raise ValueError(
      f'finite logsnr_min < logsnr_max are needed, got {logsnr_min} and '
      f'{logsnr_max}'
    )

  def make(schedule):
    start = schedule(jnp.ones(())) if logsnr_min is None else logsnr_min
    end = schedule(jnp.zeros(())) if logsnr_max is None else logsnr_max

    def time(index, num_steps):
      level = end + (start - end) * fraction(index, num_steps)
      return _ending_at_data(index, schedules.time_at(schedule, level))

    return time

  return make


def karras(rho=7.0, sigma_min=0.002, sigma_max=80.0, include_min=True):
  """Returns the grid of Karras et al. 2022 (arXiv 2206.00364, Eq. 5).

  Its noise levels sigma / alpha before data are, for i = 0 to N - 1,
  (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.

  Args:
    rho: how much shorter the steps are near data.
    sigma_min: noise level at which the last step starts.
    sigma_max: noise level of the first time.
    include_min: False leaves out the step from sigma_min, which then stands for
      data: its levels have N in place of N - 1. Consistency models are trained
      between such levels.

  Raises:
    ValueError: not 0 < sigma_min < sigma_max < inf, or rho is not in [1, 100],
      where all levels are exact in float32.
  """
  if not (0 < sigma_min < sigma_max < math.inf and 1 <= rho <= 100):
    raise ValueError(
      '0 < sigma_min < sigma_max and 1 <= rho <= 100 are needed, got '
      f'{sigma_min}, {sigma_max} and {rho}'
    )

  def make(schedule):
    def time(index, num_steps):
      # 0 at the first of the N levels, 1 at the last. N = 1 has only the first.
      last = jnp.maximum(jnp.asarray(num_steps) - int(include_min), 1)
      along = fraction(num_steps - index, last)
      level = schedules.karras_logsnr(along, rho, sigma_min, sigma_max)
      return _ending_at_data(index, schedules.time_at(schedule, level))

    return time

  return make


def sigmas(levels='80'):
  """Returns the grid of given noise levels sigma / alpha; then comes data.

  Args:
    levels: falling numbers with / between them, such as '80/0.8'. Fewer steps
      than numbers take the first ones; further steps repeat the last.

  Raises:
    ValueError: these are not falling numbers above 0.
  """
  try:
    values = [float(text) for text in str(levels).split('/')]
  except ValueError:
    values = []
  falling = values == sorted(set(values), reverse=True)
  if not (values and falling and values[-1] > 0 and values[0] < math.inf):
    raise ValueError(
      "levels must be falling numbers above 0, such as '80/0.8', got "
      f'{levels!r}'
    )

  def make(schedule):
    logsnr = -2 * jnp.log(jnp.asarray(values, jnp.float32))
    times = schedules.time_at(schedule, logsnr)

    def time(index, num_steps):
      at = jnp.clip(jnp.asarray(num_steps) - index, 0, len(values) - 1)
      return _ending_at_data(index, times[at])

    return time

  return make


def _of_trained_steps(entry):
  """Returns the factory of a grid that has some of T trained steps.

  Network evaluation k of N, where k = 0 is the one nearest to data, is made at
  the trained step entry(k, N, T), from 0 to T - 1. It stands for the time
  (entry + 1) / T. The last step of the grid ends at data.
  """

  def factory(trained_steps=1000):
    if not 1 <= trained_steps <= 2**20:
      raise ValueError(
        f'trained_steps must be from 1 to {2**20}, got {trained_steps}'
      )

    def time(index, num_steps):
      index, num_steps = jnp.asarray(index), jnp.asarray(num_steps)
      at = entry(jnp.maximum(index - 1, 0), num_steps, trained_steps)
      at = jnp.clip(at, 0, trained_steps - 1)
      return _ending_at_data(index, fraction(at + 1, trained_steps))

    return lambda schedule: time

  factory.__doc__ = entry.__doc__
  return factory


def _linear(k, n, trained):
  """Returns every (T // N)-th trained step (Song et al. 2020, DDIM)."""
  return k * jnp.maximum(trained // n, 1)


def _quad(k, n, trained):
  """Returns trained steps k^2 up to 0.8 T (DDIM's quadratic subsequence)."""
  along = fraction(jnp.where(n == 1, 1, k), jnp.maximum(n - 1, 1))
  # A square that is an integer must not be rounded to the one below.
  return jnp.floor(0.8 * trained * along**2 * (1 + 1e-6)).astype(jnp.int32)


def _exponential(k, n, trained):
  """Returns powers of two, 0 and the last trained step; all at 12 of 1,000."""
  octaves = int(np.ceil(np.log2(max(trained, 2))))
  power = fraction((k - 1) * octaves, jnp.maximum(n - 2, 1))
  at = jnp.floor(2.0**power * (1 + 1e-6)).astype(jnp.int32)
  return jnp.where(k == n - 1, trained - 1, jnp.where(k == 0, 0, at))


def _last100(k, n, trained):
  """Returns the N - 1 trained steps next to data, and the noisiest one."""
  return jnp.where(k == n - 1, trained - 1, k)


def _first_last100(k, n, trained):
  """Returns the N / 2 trained steps next to data, and as many next to noise."""
  return jnp.where(k < n // 2, k, jnp.maximum(trained - n, 0) + k)


GRIDS = {
  'uniform': uniform,
  'quadratic': quadratic,
  'logsnr': logsnr,
  'karras': karras,
  'sigmas': sigmas,
  'linear': _of_trained_steps(_linear),
  'quad': _of_trained_steps(_quad),
  'exponential': _of_trained_steps(_exponential),
  'last100': _of_trained_steps(_last100),
  'first_last100': _of_trained_steps(_first_last100),
}


def _ending_at_data(index, time):
  """Returns the times, with 0 at index 0, which is data itself."""
  return jnp.where(jnp.asarray(index) == 0, 0, time)


def make_grid(grid, schedule, **options):
  """Returns the function time(index, num_steps) of a grid.

  Args:
    grid: spelling of a grid in GRIDS, such as 'karras' or 'karras:rho=5'; or a
      function time(index, num_steps); or num_steps + 1 falling times from 1 to
      0, or a part of that range; None is 'uniform'. A step between equal times
      above 0 changes nothing, but for samplers whose further steps at a noise
      level are meant: `annealed_langevin`, `predictor_corrector` without a
      predictor, and `steps=score_sde`. `stochastic` looks one step further:
      before equal times, its step draws no noise.
    schedule: t -> logsnr.
    **options: further options of a named grid.

  Raises:
    ValueError: the grid or an option is unknown, or the array is not such a
      grid. Its values are checked unless they are traced.
  """
  grid = 'uniform' if grid is None else grid
  if isinstance(grid, str):
    return spelling.make(GRIDS, grid, 'time grid', **options)(schedule)
  if options:
    raise ValueError(f'a grid without a name has no options; got {options}')
  if callable(grid):
    return grid
  times = jnp.asarray(grid, float)
  if times.ndim != 1 or len(times) < 2:
    raise ValueError(
      f'a time grid has shape (num_steps + 1,), got {times.shape}'
    )
  # Under jit, `times` itself is traced even where its values are known.
  if not any(isinstance(t, jax.core.Tracer) for t in jax.tree.leaves(grid)):
    _check_times(np.asarray(grid, float))
  return lambda index, num_steps: times[num_steps - index]


def check_num_steps(num_steps, grid):
  """Checks a number of steps and, where it is an array, its time grid.

  Args:
    num_steps: an int; a traced number is not checked.
    grid: as in `make_grid`.

  Raises:
    ValueError: num_steps < 1, or the array does not have num_steps + 1 times.
  """
  if not isinstance(num_steps, numbers.Integral):
    return  # traced
  if num_steps < 1:
    raise ValueError(f'num_steps must be at least 1, got {num_steps}')
  is_array = not isinstance(grid, str | None) and not callable(grid)
  if is_array and len(grid) != num_steps + 1:
    raise ValueError(
      f'{num_steps} steps need a grid of {num_steps + 1} times, got {len(grid)}'
    )


def _check_times(times):
  between = np.concatenate([[1], times, [0]])
  (wrong,) = np.nonzero(~(np.diff(between) <= 0))  # also finds nan
  if len(wrong):
    index = min(wrong[0], len(times) - 1)
    raise ValueError(
      'a time grid falls from at most 1 (noise) to at least 0 (data), but its '
      f'time {index} is {times[index]:g}'
    )
