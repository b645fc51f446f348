"""A clock in the real training loop, which knows nothing of it."""

import contextlib
import dataclasses
import functools
import io
import time
from unittest import mock

import jax

from diffusion_distillation.runtime import devices
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.training import trainer

_compilations = []


def _on_event(event, duration_secs, **labels):
  del duration_secs, labels
  if event == '/jax/core/compile/backend_compile_duration':
    _compilations.append(time.perf_counter())


jax.monitoring.register_event_duration_secs_listener(_on_event)


@dataclasses.dataclass
class Clock:
  """What the loop was seen to do, in seconds of `time.perf_counter`.

  Attributes:
    calls: of each compiled step's name, the times at which it returned.
    waits: begin and end of the loop's waiting for a batch, or putting batches
      in place.
  """

  calls: dict = dataclasses.field(default_factory=dict)
  waits: list = dataclasses.field(default_factory=list)

  @contextlib.contextmanager
  def waiting(self):
    """Adds what happens inside to the waits."""
    begin = time.perf_counter()
    yield
    self.waits.append((begin, time.perf_counter()))


def compilations(begin, end):
  """Returns how many programs XLA compiled from one time to another."""
  return sum(begin <= moment < end for moment in _compilations)


def train(config, dataset, workdir, *, finished=(), replace=None):
  """Returns a Clock of a real training.

  Args:
    config: of a run.
    dataset: its Dataset.
    workdir: the run folder.
    finished: of each step's calls, the numbers that are waited for, so that the
      time is that of their end; the loop runs ahead of the devices otherwise.
    replace: (compile_step, step, in_axes) -> what is called as compiled step,
      in place of `compile_step(step, in_axes)`; None is just that.
  """
  clock = Clock()
  compile_step = devices.compile_step
  if replace is not None:
    compile_step = functools.partial(replace, compile_step)
  shard, batches = devices.shard, trainer.batches

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

  with (
    mock.patch.object(devices, 'compile_step', timed_step),
    mock.patch.object(devices, 'shard', timed_shard),
    mock.patch.object(trainer, 'batches', timed_batches),
    contextlib.redirect_stderr(io.StringIO()),  # the progress
  ):
    _run(config, dataset, workdir)
  return clock


def _run(config, dataset, workdir):
  log = RunLog(workdir)
  try:
    trainer.Trainer(
      config=config,
      dataset=dataset,
      workdir=workdir,
      teacher=None,
      log=log,
      evaluate=lambda *args: {},
    ).run()
  finally:
    log.close()
