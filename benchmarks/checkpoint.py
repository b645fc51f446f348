"""The cost of saving the paper's CIFAR-10 teacher in the real training loop.

60.0M parameters, their average and Adam's two moments are 960 MB. They are
random numbers, since constants would be compressed away. Instead of an update,
the loop calls a function that sleeps and counts. What the loop does between two
calls is therefore its own time, and where a save begins, the excess over the
usual time is the stall. The goal is at most 100 ms.
"""

import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import taps
from benchmarks.subject import random_dataset
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.commands import config_file
from diffusion_distillation.runtime import devices

_UPDATE = 0.05  # seconds
_UPDATES = 1800
_EVERY = 20  # seconds between two saves, longer than one takes


def rows(subject):
  """Returns one row: the medians over all saves of a training.

  Args:
    subject: not used; the goal is about the paper's teacher.
  """
  del subject
  config = config_file.load('cifar10_base')
  config.train.update(
    batch_size=jax.local_device_count(),
    num_updates=_UPDATES,
    checkpoint_every_secs=_EVERY,
    log_loss_every_steps=100,
    substeps=1,
  )
  return [_row(config, random_dataset(8))]


def _row(config, dataset):
  with tempfile.TemporaryDirectory() as folder:
    workdir, step = pathlib.Path(folder), _Idle()
    clock = taps.train(config, dataset, workdir, replace=step.make)
    checkpoints = CheckpointFolder(workdir / 'teacher' / 'checkpoints')
    started = time.perf_counter()
    # A training that is to be longer also restores what only training needs.
    checkpoints.restore(step.template, len(clock.calls['train_step']) + 1)
    restored = time.perf_counter() - started
    files = checkpoints.newest().rglob('*')
    size = sum(file.stat().st_size for file in files)
  stalls, durable = _saves(clock)
  params = jax.tree.leaves(step.template.params)
  return {
    'parameters': sum(leaf.size for leaf in params),
    'saves': len(stalls),
    'stall ms': 1e3 * statistics.median(stalls),
    'longest ms': 1e3 * max(stalls),
    'durable s': statistics.median(durable),
    'MB': size / 1e6,
    'restore s': restored,
  }


def _saves(clock):
  """Returns how long each save stalled the loop, and how long it took in all.

  The last save is left out, because the loop has nothing left to do during it.

  Args:
    clock: Clock of the training of a teacher.
  """
  ends = np.array(clock.calls['train_step'])
  # To wait for the next batch is the first thing that the loop does for a call.
  begins = np.array([begin for begin, _ in clock.waits])
  own = begins[np.searchsorted(begins, ends[:-1])] - ends[:-1]
  usual = np.median(own)
  saved = {n: moment for n, moment in clock.saved.items() if n < len(ends)}
  stalls = [float(own[n - 1] - usual) for n in saved]
  return stalls, [float(saved[n] - ends[n - 1]) for n in saved]


class _Idle:
  """A step that fills the state with random numbers, and then only counts.

  Attributes:
    template: the state of one device as ShapeDtypeStructs.
  """

  def __init__(self):
    self.template = None

  def make(self, compile_step, step, in_axes):
    """Returns the step; see `taps.train`."""
    del compile_step, step, in_axes
    return self._call

  def _call(self, state, *unused):
    del unused
    if self.template is None:
      state = self._fill(state)
    time.sleep(_UPDATE)
    ones = np.ones((jax.local_device_count(), 1), np.float32)
    state = state.replace(step=state.step + 1)
    return state, dict.fromkeys(('loss', 'grad_norm', 'learning_rate'), ones)

  def _fill(self, state):
    rng = np.random.default_rng(0)
    host = jax.tree.map(
      lambda leaf: (
        rng.standard_normal(leaf.shape, np.float32)
        if leaf.dtype == np.float32
        else leaf
      ),
      devices.unreplicate(state),
    )
    self.template = jax.eval_shape(lambda: host)
    return devices.replicate(host)
