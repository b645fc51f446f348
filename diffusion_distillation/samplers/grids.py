"""Time grids: where the steps of a sampler begin and end."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core.schedules import fraction


def uniform(schedule):
  """Returns the grid index / num_steps, on which students are trained."""
  del schedule
  return fraction


# name -> factory: schedule -> time(index, num_steps), which maps ints, or int
# arrays, with index in [0, num_steps] to times. It rises with the index, from
# the end of sampling (0, data) to its start (1, noise). The number of steps may
# be traced: one compilation serves every step count of a grid.
GRIDS = {'uniform': uniform}


def factory(name):
  """Returns the factory of a name in GRIDS.

  Raises:
    ValueError: the name is unknown.
  """
  if name not in GRIDS:
    known = ', '.join(GRIDS)
    raise ValueError(f'unknown time grid {name!r}; known: {known}')
  return GRIDS[name]


def make_grid(grid, schedule):
  """Returns the function time(index, num_steps) of a grid.

  Args:
    grid: a name in GRIDS, such a function, or num_steps + 1 falling times from
      1 to 0, or a part of that range. A step between equal times above 0
      changes nothing.
    schedule: t -> logsnr.

  Raises:
    ValueError: the name is unknown, or the array is not such a grid. Values
      are checked unless they are traced.
  """
  if isinstance(grid, str):
    return factory(grid)(schedule)
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


def _check_times(times):
  between = np.concatenate([[1], times, [0]])
  (wrong,) = np.nonzero(~(np.diff(between) <= 0))  # also finds nan
  if len(wrong):
    index = min(wrong[0], len(times) - 1)
    raise ValueError(
      'a time grid falls from at most 1 (noise) to at least 0 (data), but its '
      f'time {index} is {times[index]:g}'
    )
