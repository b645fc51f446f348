"""The loop of one training: the teacher's, or a round's."""

import contextlib
import time

import jax
import numpy as np

from diffusion_distillation.runtime import devices, metrics, processes, signals
from diffusion_distillation.runtime.errors import DivergedError, UserError
from diffusion_distillation.runtime.log import Progress
from diffusion_distillation.training.stage import check_length, restore


def run(stage):
  """Returns the weights after all of a Stage's updates, on all devices.

  It goes on from the newest good checkpoint, if there is one, saves every
  `train.checkpoint_every_secs`, when it is told to stop, and at the end, and
  gives the same result and the same log whether it was interrupted or not. The
  last checkpoint may still be on its way to the disk: see `Stage.saver`.

  Args:
    stage: a Stage.

  Raises:
    DivergedError: the loss, the gradient or the weights are not finite.
    UserError: an image is damaged, or a checkpoint cannot be written.
    KeyboardInterrupt: the run was told to stop, and has saved its state.
  """
  restored = restore(stage)
  if restored is None:
    loop = _Loop(stage, stage.start(), {})
  else:
    state, card = restored
    check_length(stage, card['training'])
    if state.opt_state is None:
      stage.log.rewind(stage.name, stage.num_updates)
      return devices.replicate(state.weights)
    loop = _Loop(stage, devices.replicate(state), card['training'])
  loop.run()
  return loop.state.weights


class _Loop:
  """The state of a training in progress.

  Attributes:
    state: a TrainState on all devices.
    step: updates made.
  """

  def __init__(self, stage, state, had):
    """Takes a Stage, its state, and what the card says of its training."""
    self.state, self.step = state, had.get('updates', 0)
    self._stage, self._saved_step = stage, self.step
    self._seconds, self._loss = had.get('seconds', 0.0), had.get('final_loss')
    # Metrics since the last line of the log, one entry for each call.
    self._unlogged = metrics.from_json(had.get('unlogged'))
    self._started = self._saved = time.monotonic()
    stage.log.rewind(stage.name, self.step)

  def run(self):
    """Makes all updates."""
    stage, train = self._stage, self._stage.train
    per_call = devices.updates_per_call(train, stage.num_updates)
    progress = Progress(stage.name, stage.num_updates)
    batches = stage.batches(start=self.step)
    with signals.deferrable() as defer:
      while self.step < stage.num_updates:
        if self._crossed(train.eval_every_steps, per_call):
          self._evaluate()
        self._update(batches, min(per_call, stage.num_updates - self.step))
        # Not before: the first update compiles, and has nothing to lose.
        defer()
        last = self.step == stage.num_updates
        stop = processes.agree_to_stop(signals.asked())
        if last or self._crossed(train.log_loss_every_steps, per_call):
          self._log(progress)
        if last or stop or self._is_overdue():
          self._save()
        if stop:
          self._stop()

  def _crossed(self, interval, count):
    """Returns whether the last `count` updates crossed a multiple of it."""
    before = max(self.step - count, 0)
    return interval is not None and before // interval < self.step // interval

  def _is_overdue(self):
    waited = time.monotonic() - self._saved
    # A disk that is slower than the interval must not hold the devices up.
    due = waited >= self._stage.train.checkpoint_every_secs
    return due and not self._stage.saver.busy

  def _update(self, batches, count):
    """Makes `count` updates, and stays at most two calls ahead of the devices.

    So the next batch is read, and on its way to them, while they compute.
    """
    try:
      taken = [next(batches) for _ in range(count)]
    except (ValueError, OSError) as error:
      self._save()
      self._stage.saver.wait()
      raise UserError(f'data: {error}') from error
    batch = devices.shard(taken)
    with _enough_memory(self._stage):
      self.state, found = self._stage.update(self.state, batch)
      self._unlogged.append(found)
      if len(self._unlogged) > 2:
        jax.block_until_ready(self._unlogged[-3])
    self.step += count

  def _evaluate(self):
    """Evaluates, once the state is on its way to the disk.

    So there is nothing to lose while it lasts, and a run that is told to stop
    need not wait for what is compiled there.
    """
    stage, name = self._stage, f'{self._stage.name}_{self.step:07}'
    self._save()
    try:
      with signals.interruptible():
        weights = devices.unreplicate(self.state.weights)
        figures = stage.evaluate(weights, stage.card, name)
    except KeyboardInterrupt:
      self._stop()
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
    stage.log.write(stage.name, self.step, means)
    progress.show(
      self.step, f'loss {means["loss"]:.4g}  |grad| {means["grad_norm"]:.3g}'
    )

  def _save(self):
    """Starts to save the state as it is now, while training goes on."""
    if self.step == self._saved_step or not processes.is_main():
      return
    now = time.monotonic()
    training = {
      'updates': self.step,
      'num_updates': self._stage.num_updates,
      'seconds': self._seconds + now - self._started,
      'final_loss': self._loss,
      'compilations': devices.compilations[self._stage.step_name],
    }
    with _enough_memory(self._stage):
      state = devices.snapshot(self.state)
    unlogged = tuple(self._unlogged)
    self._stage.saver.start(_write, self._stage, state, unlogged, training)
    self._saved, self._saved_step = now, self.step

  def _stop(self):
    """Ends the run, once its state is saved."""
    self._stage.saver.wait()
    raise KeyboardInterrupt(f'{self._stage.name} at update {self.step}')


@contextlib.contextmanager
def _enough_memory(stage):
  """Tells in one line that the devices' memory is full.

  Raises:
    UserError: it is.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise UserError(
      f'{stage.name}: the devices have too little memory; set '
      'model.args.remat=True, or a larger train.accumulate (see '
      'docs/scaling.md)'
    ) from error


def _write(stage, state, unlogged, training):
  """Writes a checkpoint; runs in the thread of the saver.

  Raises:
    DivergedError: it would not be worth it. The loss is computed before the
      update, so it cannot tell of the last one: the weights do.
  """
  state, values = devices.to_host(state), metrics.fetch(unlogged)
  step, weights = training['updates'], (state.params, state.ema_params)
  if wrong := metrics.not_finite(values, step):
    raise _diverged(stage, wrong)
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)):
    raise _diverged(stage, f'weights are not finite after update {step}')
  training = {**training, 'unlogged': metrics.to_json(values)}
  stage.checkpoints.save(state, {**stage.card, 'training': training})


def _diverged(stage, wrong):
  return DivergedError(
    f'{stage.name}: {wrong}; the last good checkpoint is '
    f'{stage.checkpoints.newest()}; lower train.learning_rate or '
    'train.grad_clip in a new --workdir'
  )
