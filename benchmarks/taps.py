"""Measures times inside the real training loop, which is not changed."""

import contextlib
import dataclasses
import functools
import io
import time
from unittest import mock

import jax

from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.runtime import devices, signals
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.training import trainer

_compilations = []  # times at which XLA finished a compilation


def _on_event(event, duration_secs, **labels):
  del duration_secs, labels
  if event == '/jax/core/compile/backend_compile_duration':
    _compilations.append(time.perf_counter())


jax.monitoring.register_event_duration_secs_listener(_on_event)


@dataclasses.dataclass
class Clock:
  """The times of a training, in seconds of `time.perf_counter`.

  Attributes:
    calls: name of a compiled step -> times at which its calls returned.
    waits: (begin, end) of each time that the loop waited for a batch, or put
      batches in place for a call.
    saved: number of updates -> time at which their checkpoint was complete. A
      later training replaces the times of an earlier one.
  """

  calls: dict = dataclasses.field(default_factory=dict)
  waits: list = dataclasses.field(default_factory=list)
  saved: dict = dataclasses.field(default_factory=dict)

  @contextlib.contextmanager
  def waiting(self):
    """Counts the time that the block takes as waiting."""
    begin = time.perf_counter()
    yield
    self.waits.append((begin, time.perf_counter()))


def compilations(begin, end):
  """Returns how many programs XLA compiled between two times."""
  return sum(begin <= moment < end for moment in _compilations)


def train(config, dataset, workdir, *, finished=(), replace=None):
  """Returns the Clock of a real training.

  Args:
    config: config of a run.
    dataset: its Dataset.
    workdir: path of the run folder.
    finished: indices of the calls, counted for each step from 0, that wait for
      their results, so that their times include the whole computation. After
      the other calls, the loop runs ahead of the devices.
    replace: (compile_step, step, in_axes) -> the function that the loop calls;
      None: `compile_step(step, in_axes)`.
  """
  clock = Clock()
  compile_step = devices.compile_step
  if replace is not None:
    compile_step = functools.partial(replace, compile_step)
  shard, batches, save = devices.shard, trainer.batches, CheckpointFolder.save

  def timed_step(step, in_axes):
    call, ends = compile_step(step, in_axes), []
    clock.calls[step.__name__] = ends

    def timed(*args):
      result = call(*args)
      if len(ends) in finished:
        jax.block_until_ready(result)
      ends.append(time.perf_counter())
      return result

    return timed

  def timed_shard(taken):
    with clock.waiting():
      return shard(taken)

  def timed_batches(*args, **kwargs):
    iterator = batches(*args, **kwargs)
    while True:
      with clock.waiting():
        batch = next(iterator)
      yield batch

  def timed_save(folder, state, *args):
    save(folder, state, *args)
    clock.saved[int(state.step)] = time.perf_counter()

  with (
    mock.patch.object(devices, 'compile_step', timed_step),
    mock.patch.object(devices, 'shard', timed_shard),
    mock.patch.object(trainer, 'batches', timed_batches),
    mock.patch.object(CheckpointFolder, 'save', timed_save),
    contextlib.redirect_stderr(io.StringIO()),  # the progress lines
    contextlib.closing(RunLog(workdir)) as log,
  ):
    trainer.Trainer(
      config=config,
      dataset=dataset,
      workdir=workdir,
      teacher=None,
      log=log,
      evaluate=lambda *args: {},
      stop=signals.StopFlag(),
    ).run()
  return clock
