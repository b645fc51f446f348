"""The loop of one training: the teacher's, or a round's."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import serialization

from diffusion_distillation.errors import UserError
from diffusion_distillation.training import processes, replicas
from diffusion_distillation.training.log import Progress


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training, and all that it reads and writes.

  Attributes:
    name: of its folder in the run folder: 'teacher', 'student_00032'.
    step_name: of the function that is compiled, to count its compilations.
    update: (state, batches) -> (state, metrics), compiled for all devices.
    batches: (start=batch number) -> iterator of batches from there on.
    train: its config.train.
    checkpoints: a CheckpointFolder.
    card: what its weights are, but for the training they have had.
    log: a RunLog.
    evaluate: (weights, card, name of its picture) -> metrics, called every
      `train.eval_every_steps` updates.
  """

  name: str
  step_name: str
  update: Callable
  batches: Callable
  train: object
  checkpoints: object
  card: dict
  log: object
  evaluate: Callable


def run(stage, state):
  """Returns the weights after all of the state's updates, as host arrays.

  It goes on from the newest checkpoint, if there is one, saves at the first log
  step after every `train.checkpoint_every_secs` and at the end, and gives the
  same result and the same log whether it was interrupted or not.

  Args:
    stage: a Stage.
    state: a TrainState of host arrays, the start.

  Raises:
    UserError: the loss or the gradient is not finite, or an image is damaged.
  """
  restored = _restore(stage, state)
  seconds, loss = 0.0, None
  if restored is not None:
    state, card = restored
    seconds, loss = card['training']['seconds'], card['training']['final_loss']
  step, num_updates = int(state.step), int(state.num_updates)
  stage.log.rewind(stage.name, step)
  if step >= num_updates:
    return state.weights

  progress = Progress(stage.name, num_updates)
  per_call = replicas.updates_per_call(stage.train, num_updates)
  batches = stage.batches(start=step)
  state = replicas.replicate(state)
  started = saved = time.monotonic()
  pending = []  # metrics not fetched yet, one entry for each call
  while step < num_updates:
    count = min(per_call, num_updates - step)
    taken = replicas.shard(_take(batches, count))
    state, metrics = stage.update(state, taken)
    pending.append(metrics)
    if len(pending) > 2:  # stay at most two calls ahead of the devices
      jax.block_until_ready(pending[-3])
    before, step = step, step + count
    last = step == num_updates
    if last or _crosses(before, step, stage.train.log_loss_every_steps):
      loss = _log(stage, step, pending, progress)
      pending = []
    if not last and _crosses(before, step, stage.train.eval_every_steps):
      weights = replicas.unreplicate(state.weights)
      figures = stage.evaluate(weights, stage.card, f'{stage.name}_{step:07}')
      stage.log.write(stage.name, step, figures)
    # Only where the log has no open interval, so that it resumes exactly.
    overdue = time.monotonic() - saved >= stage.train.checkpoint_every_secs
    if last or (overdue and not pending):
      host_state = replicas.unreplicate(state)
      _save(stage, host_state, seconds + time.monotonic() - started, loss)
      saved = time.monotonic()
  return host_state.weights


def _restore(stage, template):
  """Returns the newest state and its card, or None: as process 0 finds it."""
  found = stage.checkpoints.restore(template)
  if found is not None:
    found = {'state': serialization.to_state_dict(found[0]), 'card': found[1]}
  found = processes.broadcast(found)
  if found is None:
    return None
  state = serialization.from_state_dict(template, found['state'])
  return state, found['card']


def _take(batches, count):
  """Returns the next `count` batches, as a list."""
  try:
    return [next(batches) for _ in range(count)]
  except ValueError as error:
    raise UserError(f'data: {error}') from error


def _save(stage, state, seconds, loss):
  """Saves a state of host arrays, and its card.

  Raises:
    UserError: its weights are not finite. The loss is computed before the
      update, so it cannot tell of the last one.
  """
  step = int(state.step)
  weights = jax.tree.leaves((state.params, state.ema_params))
  if not all(np.isfinite(leaf).all() for leaf in weights):
    raise UserError(
      f'{stage.name}: weights are not finite after update {step}; the last '
      f'good checkpoint is {stage.checkpoints.newest()}; lower '
      'train.learning_rate in a new --workdir'
    )
  training = {
    'updates': step,
    'num_updates': int(state.num_updates),
    'seconds': seconds,
    'final_loss': loss,
    'compilations': replicas.compilations[stage.step_name],
  }
  stage.checkpoints.save(state, {**stage.card, 'training': training})


def _crosses(before, after, interval):
  """Returns whether a multiple of `interval` lies in (before, after]."""
  return interval is not None and before // interval < after // interval


def _log(stage, step, pending, progress):
  """Logs the mean of the metrics since the last time; returns its loss."""
  host = [jax.tree.map(lambda m: np.asarray(m)[0], m) for m in pending]
  values = {k: np.concatenate([m[k] for m in host]) for k in host[0]}
  finite = np.isfinite(values['loss']) & np.isfinite(values['grad_norm'])
  if not finite.all():
    bad = step - len(finite) + int(np.argmin(finite)) + 1
    raise UserError(
      f'{stage.name}: loss {values["loss"][np.argmin(finite)]} and gradient '
      f'norm {values["grad_norm"][np.argmin(finite)]} at update {bad}; the '
      f'last good checkpoint is {stage.checkpoints.newest()}; lower '
      'train.learning_rate or train.grad_clip in a new --workdir'
    )
  means = {name: float(np.mean(value)) for name, value in values.items()}
  stage.log.write(stage.name, step, means)
  progress.show(
    step, f'loss {means["loss"]:.4g}  |grad| {means["grad_norm"]:.3g}'
  )
  return means['loss']
