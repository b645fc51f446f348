"""Time grids: where the steps of a sampler begin and end."""

import jax.numpy as jnp

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


def make_grid(grid, schedule):
  """Returns the function time(index, num_steps) of a grid.

  Args:
    grid: a name in GRIDS, such a function, or num_steps + 1 falling times.
    schedule: t -> logsnr.

  Raises:
    ValueError: the name is unknown, or the array has another shape.
  """
  if isinstance(grid, str):
    if grid not in GRIDS:
      known = ', '.join(GRIDS)
      raise ValueError(f'unknown time grid {grid!r}; known: {known}')
    return GRIDS[grid](schedule)
  if callable(grid):
    return grid
  times = jnp.asarray(grid, float)
  if times.ndim != 1 or len(times) < 2:
    raise ValueError(
      f'a time grid has shape (num_steps + 1,), got {times.shape}'
    )
  return lambda index, num_steps: times[num_steps - index]
