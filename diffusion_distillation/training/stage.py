"""A training, and all that belongs to it."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training, and all that it reads and writes.

  Attributes:
    name: of its folder in the run folder: 'teacher', 'student_00032'.
    step_name: of the function that is compiled, to count its compilations.
    start: () -> the TrainState before the first update, on all devices.
    template: the same of one device, as ShapeDtypeStructs.
    num_updates: updates that it is to make in all.
    followed_by: name of a later training that has begun, or None.
    update: (state, batches) -> (state, metrics), compiled for all devices.
    batches: (start=batch number) -> iterator of batches from there on.
    train: its config.train.
    checkpoints: a CheckpointFolder.
    saver: a Saver, which may still be saving the training before.
    card: what its weights are, but for the training they have had.
    log: a RunLog.
    evaluate: (weights, card, name of its picture) -> metrics, called every
      `train.eval_every_steps` updates.
  """

  name: str
  step_name: str
  start: Callable
  template: object
  num_updates: int
  followed_by: str | None
  update: Callable
  batches: Callable
  train: object
  checkpoints: object
  saver: object
  card: dict
  log: object
  evaluate: Callable
