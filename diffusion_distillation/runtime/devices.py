"""Data parallelism over all devices, and how XLA compiles.

This is the only module that calls `jax.pmap`. Arrays that its functions take
and return have a leading axis of the devices of this process; "replicated"
means that all devices have the same value.
"""

import collections
import functools
import math
import os
import pathlib
import platform
import re
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from diffusion_distillation.runtime import files

# How often XLA was asked to compile a step since `compile_step` made it, by the
# name of the step. An answer from the persistent cache also counts.
compilations = collections.Counter()
_xla = collections.Counter()


def _count(event, duration_secs, **labels):
  del duration_secs, labels
  if event == '/jax/core/compile/backend_compile_duration':
    _xla['compilations'] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def _counted(name, function):
  """Returns a compiled function whose compilations are counted."""

  def call(*args):
    before = _xla['compilations']
    result = function(*args)
    compilations[name] += _xla['compilations'] - before
    return result

  call.lower = function.lower
  return call


def use_compilation_cache(folder):
  """Keeps compiled programs in a folder, so that the next process starts fast.

  A cache that the user has set with JAX's own options is not changed. If the
  folder cannot be used, a notice says so, and nothing is kept.

  Args:
    folder: path, which may begin with '~'; None or '' means no cache.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  folder = files.cache_folder(folder, 'compilation_cache_dir')
  if folder is not None:
    jax.config.update('jax_compilation_cache_dir', str(folder))
    # JAX's default keeps nothing that compiles in less than a second, but a run
    # begins with many such functions.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def compile_step(step, in_axes):
  """Returns step(state, *fixed, batches, key) compiled for all devices.

  A call makes one update for each of its batches, by `lax.scan`. The memory of
  the state is reused: the caller must not use the old state again.

  Args:
    step: (state, *fixed, batch, key) -> (state, metrics), for one device, with
      the axis name 'batch'.
    in_axes: for each argument, 0 where it has an axis of devices, None where
      all devices get the same value.

  Returns:
    A function whose batches have the leading axes (devices, updates), and which
    returns metrics with the same leading axes.
  """

  def updates(state, *args):
    *fixed, batches, key = args
    first = jax.tree.leaves(batches)[0]
    if first.shape[0] == 1:
      # On CPU, the gradients of convolutions are 17 times slower in a scan
      # (measured on 2 cores).
      batch = jax.tree.map(lambda b: b[0], batches)
      state, metrics = step(state, *fixed, batch, key)
      return state, jax.tree.map(lambda m: m[None], metrics)
    return jax.lax.scan(
      lambda state, batch: step(state, *fixed, batch, key), state, batches
    )

  compiled = jax.pmap(
    updates, axis_name='batch', in_axes=in_axes, donate_argnums=(0,)
  )
  compilations[step.__name__] = 0
  return _counted(step.__name__, compiled)


def compile_start(start):
  """Returns start(weights, num_updates) compiled for all devices.

  Args:
    start: (weights, num_updates) -> state, for one device.

  Returns:
    A function of replicated weights, which it does not change, and a number of
    updates.
  """
  return jax.pmap(start, axis_name='batch', in_axes=(0, None))


def compile_sampler(draw):
  """Returns draw(params, seeds, condition, num_steps) for all devices.

  Args:
    draw: (params, seeds (B,), condition, num_steps) -> images, for one device;
      condition is a pytree of (B, ...) arrays.

  Returns:
    The same function of replicated params, of seeds and condition with a
    leading axis of devices, and of a step count.
  """
  return jax.pmap(draw, in_axes=(0, 0, 0, None))


@functools.cache
def matrix_rate():
  """Returns the FLOP/s of matrix products on all devices, measured once.

  The type is bfloat16, but float32 on CPU, whose devices share the cores.
  """
  on_cpu = jax.default_backend() == 'cpu'
  size, dtype, products = (
    (1024, jnp.float32, 1) if on_cpu else (4096, jnp.bfloat16, 20)
  )
  # Random, since devices are faster with constant data.
  numbers = np.random.default_rng(0).standard_normal((size, size), np.float32)
  matrix = jnp.asarray(numbers, dtype)
  product = jax.jit(jnp.matmul)
  seconds = []
  for _ in range(6):  # the first one compiles
    started = time.perf_counter()
    for _ in range(products):
      result = product(matrix, matrix)
    result.block_until_ready()
    seconds.append((time.perf_counter() - started) / products)
  count = jax.process_count() if on_cpu else jax.device_count()
  return 2 * size**3 / min(seconds[1:]) * count


def hardware():
  """Returns the hardware of this process: 'cpu', 'cores' and 'devices'."""
  cpu, cpuinfo = platform.processor(), pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    names = re.findall(r'^model name\s*: (.*)$', cpuinfo.read_text(), re.M)
    cpu = names[0] if names else cpu
  return {
    'cpu': cpu,
    'cores': os.cpu_count(),
    'devices': [device.device_kind for device in jax.devices()],
  }


def any_process(flag):
  """Returns whether `flag` is true in any process, as a replicated array.

  All processes must call it, in the same order. The call does not wait for the
  answer.
  """
  return _any()(np.full(jax.local_device_count(), flag))


@functools.cache
def _any():
  return jax.pmap(lambda flag: jax.lax.pmax(flag, 'batch'), axis_name='batch')


def gather(array):
  """Returns the concatenation of the arrays (B, ...) of all processes.

  All processes must call it, with the same shape.
  """
  return multihost_utils.process_allgather(array, tiled=True)


def replicate(tree):
  """Returns a copy of the tree on every device.

  The copies are made by a pmap: arrays that are placed in another way differ in
  sharding from the results of a step, which would then compile twice.
  """
  return _copier()(np.arange(jax.local_device_count()), tree)


@functools.cache
def _copier():
  return jax.pmap(lambda _, tree: tree, axis_name='batch', in_axes=(0, None))


def unreplicate(tree):
  """Returns the first device's copy of a replicated tree as NumPy arrays."""
  return jax.tree.map(np.asarray, flax.jax_utils.unreplicate(tree))


def snapshot(tree):
  """Returns the first device's current copy of a replicated tree.

  The call does not wait for the devices, and later updates do not change the
  snapshot. `to_host` turns it into NumPy arrays, in any thread.
  """
  first = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
  if jax.default_backend() == 'cpu':
    # These arrays share the memory of the state, which XLA does not reuse as
    # long as they exist.
    return jax.tree.map(np.asarray, first)
  first = _copy(first)
  jax.tree.map(lambda x: x.copy_to_host_async(), first)
  return first


@jax.jit
def _copy(tree):
  return jax.tree.map(jnp.copy, tree)


def to_host(snapshot):
  """Returns a snapshot as NumPy arrays, once the devices have computed it."""
  return jax.tree.map(lambda x: np.asarray(x)[0], snapshot)


def shard(batches):
  """Returns batches as one tree of arrays (devices, updates, B', ...).

  The devices may read the batches later, so do not write to their memory.

  Args:
    batches: list of trees of arrays (B, ...), one for each update.

  Raises:
    ValueError: B is not a multiple of the number of devices.
  """
  devices = jax.local_device_count()

  def stack(*arrays):
    # A single batch is not copied: the copy releases the GIL, and waits for the
    # threads that read images to give it back (0.9 ms instead of 0.08 ms, in an
    # update of digits of 25 ms).
    one = len(arrays) == 1
    array = arrays[0][None] if one else np.stack(arrays)  # (updates, B, ...)
    array = array.reshape(len(arrays), devices, -1, *array.shape[2:])
    return array.swapaxes(0, 1)

  return jax.tree.map(stack, *batches)


def updates_per_call(train, num_updates):
  """Returns how many updates one call of a compiled step makes.

  It is at most `train.substeps`, and divides `num_updates`, since a shorter
  last call would compile again. On CPU it is 1: a scan makes the gradients of
  convolutions slower there, and saves nothing.

  Args:
    train: the section `train` of a config.
    num_updates: length of the training.
  """
  if jax.default_backend() == 'cpu':
    return 1
  return math.gcd(train.substeps, num_updates)
