"""The training loop of one round."""

import contextlib
import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from diffusion_distillation.runtime import devices, processes
from diffusion_distillation.runtime.errors import DivergedError, UserError
from diffusion_distillation.runtime.log import Progress
from diffusion_distillation.runtime.signals import Stopped
from diffusion_distillation.training import metrics


@dataclasses.dataclass(frozen=True)
class Stage:
  """The training of one round, and everything that it reads and writes.

  Attributes:
    name: name of its folder in the run folder, such as 'student_00032'.
    step_name: name of the compiled step, to count its compilations.
    start: () -> the TrainState before the first update, on all devices.
    template: the TrainState of one device, as ShapeDtypeStructs.
    num_updates: length of the training.
    flops: () -> FLOPs of an update. Counting them takes seconds for a large
      network, which a short training can do without.
    update: (state, batches) -> (state, metrics), compiled for all devices.
    batches: (start=number of a batch) -> iterator of batches from that one on.
    train: config.train of the round.
    checkpoints: a CheckpointFolder.
    card: the Card of its weights, without the number of updates.
    saver: a Saver, which may still be saving the previous round.
    log: a RunLog.
    evaluate: (weights, card, name, updates made) -> metrics, called every
      `train.eval_every_steps` updates.
    stop: a StopFlag.
  """

  name: str
  step_name: str
  start: Callable
  template: object
  num_updates: int
  flops: Callable
  update: Callable
  batches: Callable
  train: object
  checkpoints: object
  card: object
  saver: object
  log: object
  evaluate: Callable
  stop: object


def train_stage(stage):
  """Returns the weights after all updates of a Stage, on all devices.

  Training continues from the newest good checkpoint, if there is one, and saves
  every `train.checkpoint_every_secs`, when it is asked to stop, and at the end.
  The result and the log are the same whether it was interrupted or not. On
  return, the last checkpoint may still be being written: see `Stage.saver`.

  Args:
    stage: a Stage.

  Raises:
    DivergedError: the loss, the gradient or the weights are not finite.
    UserError: an image cannot be read, or a checkpoint cannot be written.
    Stopped: the process was asked to stop, and the state is saved.
  """
  restored = _restore(stage)
  if restored is None:
    loop = _Loop(stage, stage.start(), {})
  else:
    state, card, progress = restored
    if state.opt_state is None:
      stage.log.rewind(stage.name, stage.num_updates)
      return devices.replicate(state.weights)
    loop = _Loop(stage, devices.replicate(state), progress)
    loop.step = loop.saved_step = card.updates
  stage.log.rewind(
    stage.name, loop.step, lambda: stage.flops() / devices.matrix_rate()
  )
  loop.run()
  return loop.state.weights


def _restore(stage):
  """Returns the newest state, its card and its progress, or None.

  Process 0 alone reads files, and sends the others what it finds.
  """
  found = stage.checkpoints.restore(stage.template, stage.num_updates)
  if jax.process_count() == 1:
    return found
  if found is not None:
    state, card, progress = found
    numbers = {'updates': card.updates, 'num_updates': card.num_updates}
    found = {
      'leaves': jax.tree.leaves(state),
      'numbers': numbers,
      'progress': progress,
    }
  found = processes.broadcast(found)
  if found is None:
    return None
  card = dataclasses.replace(stage.card, **found['numbers'])
  template = stage.template
  if card.updates >= stage.num_updates:  # finished: it has weights only
    params = template.params if template.ema_params is None else None
    template = template.replace(
      params=params, opt_state=None, target_params=None
    )
  state = jax.tree.unflatten(jax.tree.structure(template), found['leaves'])
  return state, card, found['progress']


class _Loop:
  """A training in progress.

  Attributes:
    state: a TrainState on all devices.
    step: updates made.
    saved_step: updates made when the state was last saved.
  """

  def __init__(self, stage, state, progress):
    """Takes a Stage, its state, and the `progress` saved with it."""
    self.state, self.step, self.saved_step = state, 0, 0
    self._stage = stage
    self._seconds = progress.get('seconds', 0.0)
    self._loss = progress.get('final_loss')
    # Metrics since the last line of the log, one entry for each call.
    self._unlogged = metrics.from_json(progress.get('unlogged'))
    self._started = self._saved = time.monotonic()

  def run(self):
    """Makes all updates."""
    stage, train = self._stage, self._stage.train
    per_call = devices.updates_per_call(train, stage.num_updates)
    progress = Progress(stage.name, stage.num_updates)
    batches = stage.batches(start=self.step)
    while self.step < stage.num_updates:
      if self._crossed(train.eval_every_steps, per_call):
        self._evaluate()
      with _enough_memory(stage.name):
        self._update(batches, min(per_call, stage.num_updates - self.step))
        # Signals are caught only after the first update, which compiles: an
        # earlier one ends the process at once, since nothing is lost.
        stage.stop.arm()
        last = self.step == stage.num_updates
        stop = processes.agree_to_stop(stage.stop.requested, last=last)
        if last or self._crossed(train.log_loss_every_steps, per_call):
          self._log(progress)
        if last or stop or self._is_save_due():
          self._save()
        if stop:
          stage.saver.wait()
          raise self._stopped()

  def _stopped(self):
    return Stopped(f'{self._stage.name} at update {self.step}')

  def _crossed(self, interval, count):
    """Returns whether `count` updates crossed a multiple of `interval`."""
    before = max(self.step - count, 0)
    return interval is not None and before // interval < self.step // interval

  def _is_save_due(self):
    waited = time.monotonic() - self._saved
    is_due = waited >= self._stage.train.checkpoint_every_secs
    # A disk that is slower than the interval must not delay the devices.
    return is_due and not self._stage.saver.busy

  def _update(self, batches, count):
    """Makes `count` updates, and stays at most two calls ahead of the devices.

    The next batch is read and sent to the devices while they compute.
    """
    try:
      taken = [next(batches) for _ in range(count)]
    except (UserError, OSError):  # an image is damaged or gone
      self._save()
      self._stage.saver.wait()
      raise
    self.state, found = self._stage.update(self.state, devices.shard(taken))
    self._unlogged.append(found)
    if len(self._unlogged) > 2:
      jax.block_until_ready(self._unlogged[-3])
    self.step += count

  def _evaluate(self):
    """Evaluates the current weights.

    The state is saved first, so that a signal during the evaluation, which may
    take long, ends the process at once and loses nothing.
    """
    stage = self._stage
    self._save()
    stage.saver.wait()
    if processes.agree_to_stop(stage.stop.requested, last=True):
      raise self._stopped()
    with stage.stop.disarmed():
      weights = devices.unreplicate(self.state.weights)
      figures = stage.evaluate(weights, stage.card, stage.name, self.step)
    stage.log.write(stage.name, self.step, figures)

  def _log(self, progress):
    """Logs the mean of the metrics since the last time."""
    stage, values = self._stage, metrics.fetch(self._unlogged)
    stage.saver.check()
    if wrong := metrics.not_finite(values, self.step):
      stage.saver.wait()
      raise _diverged(stage, wrong)
    self._unlogged = []
    means = {name: float(np.mean(value)) for name, value in values.items()}
    self._loss = means['loss']
    entry = stage.log.write(stage.name, self.step, means)
    text = f'loss {means["loss"]:.4g}  |grad| {means["grad_norm"]:.3g}'
    if 'mfu' in entry:
      text += f'  MFU {entry["mfu"]:.1%}'
    progress.show(self.step, text)

  def _save(self):
    """Starts to save the current state while training continues."""
    if self.step == self.saved_step or not processes.is_main():
      return
    now = time.monotonic()
    progress = {
      'seconds': self._seconds + now - self._started,
      'final_loss': self._loss,
      'compilations': devices.compilations[self._stage.step_name],
    }
    state, unlogged = devices.snapshot(self.state), tuple(self._unlogged)
    self._stage.saver.start(
      _write, self._stage, self.step, state, unlogged, progress
    )
    self._saved, self.saved_step = now, self.step


@contextlib.contextmanager
def _enough_memory(name):
  """Reports that the memory of the devices is full as one line.

  Raises:
    UserError: the block ran out of memory.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise UserError(
      f'{name}: out of memory on the devices; set '
      'model.args.remat=True, or a larger train.accumulate (see '
      'docs/scaling.md)'
    ) from error


def _write(stage, step, state, unlogged, progress):
  """Writes a checkpoint; runs in the thread of the saver.

  Raises:
    DivergedError: a loss or a weight is not finite. The loss is computed before
      the update, so the effect of the last update shows in the weights only.
  """
  state, values = devices.to_host(state), metrics.fetch(unlogged)
  if wrong := metrics.not_finite(values, step):
    raise _diverged(stage, wrong)
  weights = state.params, state.ema_params
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)):
    raise _diverged(stage, f'weights are not finite after update {step}')
  card = dataclasses.replace(
    stage.card, updates=step, num_updates=stage.num_updates
  )
  progress = {**progress, 'unlogged': metrics.to_json(values)}
  stage.checkpoints.save(state, card, progress)


def _diverged(stage, wrong):
  return DivergedError(
    f'{stage.name}: {wrong}; the last good checkpoint is '
    f'{stage.checkpoints.newest() or "none"}; lower train.learning_rate or '
    'train.grad_clip in a new --workdir'
  )
