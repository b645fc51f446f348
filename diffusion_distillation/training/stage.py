"""A training, and all that belongs to it."""

import dataclasses
from collections.abc import Callable

import jax

from diffusion_distillation.checkpoints.checkpoint_folder import state_like
from diffusion_distillation.runtime import processes
from diffusion_distillation.runtime.errors import UserError


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


def restore(stage):
  """Returns the newest state and its card, or None: as process 0 finds it."""
  found = stage.checkpoints.restore(stage.template, stage.num_updates)
  if jax.process_count() == 1:
    return found
  if found is not None:
    found = {'leaves': jax.tree.leaves(found[0]), 'card': found[1]}
  found = processes.broadcast(found)
  if found is None:
    return None
  updates = found['card']['training']['updates']
  like = state_like(stage.template, updates >= stage.num_updates)
  state = jax.tree.unflatten(jax.tree.structure(like), found['leaves'])
  return state, found['card']


def check_length(stage, had):
  """Checks that the updates a training has had are a beginning of its own.

  Raises:
    UserError: it has had too many; or it is to be longer than it was when a
      later one began from its end.
  """
  updates, wanted = had['updates'], stage.num_updates
  if updates > wanted:
    raise UserError(
      f'{stage.name} has had {updates} updates, more than the {wanted} that '
      'the config says; choose at least as many, or another --workdir'
    )
  if stage.followed_by and had['num_updates'] != wanted:
    raise UserError(
      f'{stage.followed_by} began from the {had["num_updates"]} updates of '
      f'{stage.name}, which cannot be made {wanted} any more; choose another '
      '--workdir'
    )
