"""What a checkpoint costs: the loop, until it is on the disk, and to restore.

python -m benchmarks --suite=checkpoint --config=configs/cifar10_distill.py

The state is a teacher's, with optimizer and average, of the config's network,
all of it random, since constants compress to nothing. The loop is stalled by
what it does itself: the snapshot, and starting the thread that saves. The goal
is 100 ms. Updates go on meanwhile; a stand-in for them, which costs next to
nothing, shows what of the devices' and the cores' time the save takes.
"""

import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from diffusion_distillation.training import replicas
from diffusion_distillation.training.checkpoint_folder import CheckpointFolder
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.saver import Saver
from diffusion_distillation.training.settings import teacher_config
from diffusion_distillation.training.state import create_state

_REPEATS = 5


def rows(subject):
  """Returns the measurements of saving and restoring one state."""
  host, like = _state(subject)
  count = sum(leaf.size for leaf in jax.tree.leaves(host.params))
  update = jax.pmap(
    lambda state: jax.tree.map(lambda leaf: leaf * 1, state),
    axis_name='batch',
    donate_argnums=(0,),
  )
  state, stalls, totals = replicas.replicate(host), [], []
  with tempfile.TemporaryDirectory() as folder, Saver() as saver:
    checkpoints = CheckpointFolder(folder)

    def save(snapshot, step):
      state = replicas.to_host(snapshot)
      checkpoints.save(state.replace(step=np.int32(step)), _card(step))

    for step in range(1, _REPEATS + 1):
      state = jax.block_until_ready(update(state))
      started = time.perf_counter()
      saver.start(save, replicas.snapshot(state), step)
      stalls.append(time.perf_counter() - started)
      while saver.busy:
        state = jax.block_until_ready(update(state))
      saver.wait()
      totals.append(time.perf_counter() - started)
    newest = pathlib.Path(checkpoints.newest())
    size = sum(p.stat().st_size for p in newest.rglob('*') if p.is_file())
    started = time.perf_counter()
    restored, _ = checkpoints.restore(like, 10**6)
    seconds = time.perf_counter() - started
  jax.tree.map(np.testing.assert_array_equal, restored.params, host.params)
  return [
    {
      'parameters': count,
      'MB of state': sum(leaf.nbytes for leaf in jax.tree.leaves(host)) / 1e6,
      'stall ms': 1e3 * statistics.median(stalls),
      'longest ms': 1e3 * max(stalls),
      'saved after s': statistics.median(totals),
      'MB on disk': size / 1e6,
      'restored in s': seconds,
      'repeats': _REPEATS,
    }
  ]


def _state(subject):
  """Returns a random state, of host arrays, and its shapes."""
  config = teacher_config(subject.config)
  optimizer, rng = make_optimizer(config.train), np.random.default_rng(0)

  def begin(params):
    return create_state(
      params, optimizer, num_updates=10**6, ema_decay=config.train.ema_decay
    )

  def random(leaf):
    if np.issubdtype(leaf.dtype, np.integer):
      return np.zeros(leaf.shape, leaf.dtype)
    return rng.standard_normal(leaf.shape, leaf.dtype)

  like = jax.eval_shape(begin, subject.denoiser.param_shapes())
  return jax.tree.map(random, like), like


def _card(step):
  """Returns a card as a training has it."""
  return {
    'num_steps': 1,
    'sampler': 'ddim',
    'mean_type': 'v',
    'args': {},
    'logsnr_schedule': {},
    'clip': True,
    'logvar_type': 'fixed_small',
    'image_shape': [1, 1, 1],
    'num_classes': 1,
    'dataset': {},
    'parent': None,
    'config': None,
    'versions': {},
    'training': {'updates': step, 'num_updates': 10**6},
  }
