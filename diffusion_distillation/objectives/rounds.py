"""The rounds of a distillation, as its config describes them."""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

_STUDENT = 'student_'


@dataclasses.dataclass(frozen=True)
class Round:
  """One round of distillation: to how many steps, in how many updates."""

  num_steps: int
  num_updates: int

  @property
  def name(self):
    """The name of its folder."""
    return f'{_STUDENT}{self.num_steps:05}'


def number_of(name):
  """Returns the number of steps of a Round of that name, or None: no round."""
  number = name.removeprefix(_STUDENT)
  return int(number) if number != name and number.isdecimal() else None


def rounds(distillation):
  """Returns the Rounds of Algorithm 2, from start_num_steps / 2 downwards.

  Args:
    distillation: config.distillation. `steps_per_iter` is a number of updates,
      or a mapping from each student's step count to its own.

  Raises:
    ValueError: the step counts cannot be halved into each other, or a round has
      no number of updates.
  """
  start, end = distillation.start_num_steps, distillation.end_num_steps
  num_steps, counts = start, []
  while end >= 1 and num_steps % 2 == 0 and num_steps > end:
    num_steps //= 2
    counts.append(num_steps)
  if num_steps != end or not counts:
    raise ValueError(
      f'distillation.start_num_steps={start} must be a power-of-two multiple '
      f'of distillation.end_num_steps={end}, such as {max(end, 1) * 8}'
    )
  return [Round(n, _updates(distillation.steps_per_iter, n)) for n in counts]


def _updates(steps_per_iter, num_steps):
  updates = steps_per_iter
  if isinstance(updates, ConfigDict):
    updates = updates.to_dict()
  if isinstance(updates, Mapping):
    # Keys may be strings, as ml_collections and JSON have them.
    by_steps = {str(steps): updates[steps] for steps in updates}
    if str(num_steps) not in by_steps:
      raise ValueError(
        'distillation.steps_per_iter says nothing of the round to '
        f'{num_steps} steps; add a key {num_steps}, or give one number for all'
      )
    updates = by_steps[str(num_steps)]
  if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
    raise ValueError(
      'distillation.steps_per_iter must be a positive number of updates, or a '
      f'mapping from step counts to them, got {updates!r}'
    )
  return updates
