"""What saving costs: the paper's CIFAR-10 teacher, saved by the real loop.

60.0M parameters with their average and Adam's two moments, 960 MB of random
numbers, since constants would be compressed away. In place of an update, the
loop gets a function that sleeps and counts: so what it does between two calls
is its own time, and what it takes longer where a save begins, the stall. The
goal is at most 100 ms.
"""

import pathlib
import statistics
import tempfile
import threading
import time

import jax
import numpy as np

from benchmarks import random_images, taps
from configs import cifar10_base
from diffusion_distillation.checkpoints.checkpoint_folder import (
  CheckpointFolder,
)
from diffusion_distillation.runtime import devices

_UPDATE = 0.05  # seconds
_UPDATES = 1800
_EVERY = 20  # seconds between two saves, longer than one takes


def rows(subject):
  """Returns the measurements of all saves of a training, their medians.

  Args:
    subject: not used; this is the size that the goal speaks of.
  """
  del subject
  config = cifar10_base.get_config()
  config.train.update(
    batch_size=jax.local_device_count(),
    num_updates=_UPDATES,
    checkpoint_every_secs=_EVERY,
    log_loss_every_steps=100,
    substeps=1,
  )
  with tempfile.TemporaryDirectory() as temporary:
    step = _Idle()
    workdir = pathlib.Path(temporary)
    folder = workdir / 'teacher' / 'checkpoints'
    with _Watch(folder) as watch:
      clock = taps.train(
        config, random_images.dataset(8), workdir=workdir, replace=step.make
      )
    started = time.perf_counter()
    CheckpointFolder(folder).restore(step.template, _UPDATES + 1)
    restored = time.perf_counter() - started
    newest = max(folder.iterdir(), key=lambda path: int(path.name))
    size = sum(file.stat().st_size for file in newest.rglob('*'))
  ends = clock.calls['train_step']
  stalls, durable = _saves(ends, clock.waits, watch.seen)
  return [
    {
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(step.params)),
      'saves': len(stalls),
      'stall ms': 1e3 * statistics.median(stalls),
      'longest ms': 1e3 * max(stalls),
      'durable s': statistics.median(durable),
      'MB': size / 1e6,
      'restore s': restored,
    }
  ]


def _saves(ends, waits, seen):
  """Returns how long each save stalled the loop, and took in all.

  The last is left out: the loop has nothing more to do.

  Args:
    ends: times at which the calls of the step returned.
    waits: begin and end of waiting for batches, the first thing that the loop
      does for the next call.
    seen: when the checkpoint of each number of updates was there.
  """
  begins = np.array([begin for begin, _ in waits])
  own = begins[np.searchsorted(begins, ends[:-1])] - np.array(ends[:-1])
  usual = np.median(own)
  saved = [updates for updates in seen if updates < len(ends)]
  stalls = [float(own[updates - 1] - usual) for updates in saved]
  return stalls, [seen[updates] - ends[updates - 1] for updates in saved]


class _Idle:
  """A step that fills the state with random numbers, and then only counts.

  Attributes:
    params: shapes of the parameters.
    template: of the state, of one device.
  """

  def __init__(self):
    self.params = self.template = None

  def make(self, compile_step, step, in_axes):
    """Returns the step; see `taps.train`."""
    del compile_step, step, in_axes
    return self._call

  def _call(self, state, batches, key):
    del batches, key
    if self.template is None:
      state = self._fill(state)
    time.sleep(_UPDATE)
    found = np.ones((jax.local_device_count(), 1), np.float32)
    state = state.replace(step=state.step + 1)
    return state, dict.fromkeys(('loss', 'grad_norm', 'learning_rate'), found)

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
    self.params, self.template = jax.eval_shape(lambda: (host.params, host))
    return devices.replicate(host)


class _Watch:
  """Sees when checkpoints appear in a folder; a context manager.

  Attributes:
    seen: when the checkpoint of each number of updates was there.
  """

  def __init__(self, folder):
    self.seen, self._folder, self._over = {}, folder, threading.Event()
    self._thread = threading.Thread(target=self._look)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *exception):
    self._over.set()
    self._thread.join()

  def _look(self):
    while not self._over.wait(0.02):
      for path in self._folder.glob('*'):
        if path.name.isdecimal():
          self.seen.setdefault(int(path.name), time.perf_counter())
