"""Data parallelism: the one place that calls jax.pmap."""

import collections
import contextlib
import functools
import math
import pathlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

# What XLA was asked to compile (be it answered by the persistent cache), by the
# name of the step, since its `compile_step`: counted, not believed.
compilations = collections.Counter()
_xla = collections.Counter()


def _count(event, duration_secs, **labels):
  del duration_secs, labels
  if event == '/jax/core/compile/backend_compile_duration':
    _xla['compilations'] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def _counted(name, function):
  """Returns the function, counting what its calls compile."""

  def call(*args):
    before = _xla['compilations']
    result = function(*args)
    compilations[name] += _xla['compilations'] - before
    return result

  return call


def use_compilation_cache(folder):
  """Keeps what is compiled from now on in a folder, where it is found again.

  Args:
    folder: path; None, or a folder that JAX has been given otherwise, changes
      nothing.
  """
  with contextlib.suppress(RuntimeError):  # there is no home folder
    if folder and jax.config.jax_compilation_cache_dir is None:
      folder = pathlib.Path(folder).expanduser()
      jax.config.update('jax_compilation_cache_dir', str(folder))
    # Starting a run compiles many small functions, too.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def compile_step(step, in_axes):
  """Returns step(state, *fixed, batches, key) compiled for all devices.

  The state is donated. One call makes as many updates as `batches` holds, by
  `lax.scan`.

  Args:
    step: (state, *fixed, batch, key) -> (state, metrics), per replica, with the
      axis name 'batch'.
    in_axes: of each argument: 0 where it is split over the devices, None where
      all devices get the same.

  Returns:
    A function whose batches have a leading axis (devices, updates, ...); its
    metrics have the leading axes (devices, updates).
  """

  def updates(state, *args):
    *fixed, batches, key = args
    first = jax.tree.leaves(batches)[0]
    if first.shape[0] == 1:
      # Outside of a loop: XLA:CPU runs gradients of convolutions in a scan 17
      # times slower (measured on 2 cores).
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
    start: (weights, num_updates) -> state, per replica.

  Returns:
    A function of replicated weights and a number of updates; it leaves the
    weights alone.
  """
  return jax.pmap(start, axis_name='batch', in_axes=(0, None))


def compile_sampler(draw):
  """Returns draw(params, seeds, condition, num_steps) for all devices.

  Args:
    draw: (params, seeds (B,), condition, num_steps) -> images, per replica;
      condition is a pytree of (B,) arrays.

  Returns:
    The same function of replicated params, of seeds and condition with a
    leading axis of devices, and of a step count.
  """
  return jax.pmap(draw, in_axes=(0, 0, 0, None))


def any_replica(flag):
  """Returns whether any process gives True, on every device, soon."""
  return _any()(np.full(jax.local_device_count(), flag))


@functools.cache
def _any():
  return jax.pmap(lambda flag: jax.lax.pmax(flag, 'batch'), axis_name='batch')


def gather(array):
  """Returns the arrays (B, ...) of all processes, in order, as one."""
  return multihost_utils.process_allgather(array, tiled=True)


def replicate(tree):
  """Returns a copy of the tree on every device, with a leading axis.

  It comes out of a pmap because arrays that are placed in another way have
  another sharding than a step's result, and the second step compiles again.
  """
  return _copier()(np.arange(jax.local_device_count()), tree)


@functools.cache
def _copier():
  return jax.pmap(lambda _, tree: tree, axis_name='batch', in_axes=(0, None))


def unreplicate(tree):
  """Returns the first device's copy, as NumPy arrays."""
  return jax.tree.map(np.asarray, flax.jax_utils.unreplicate(tree))


def snapshot(tree):
  """Returns the first device's copy as it is now, whatever comes next.

  It does not wait for the devices, and `to_host` turns it into NumPy arrays,
  in another thread if need be.
  """
  first = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
  if jax.default_backend() == 'cpu':
    # Host memory already; as long as it is looked at, it is not donated.
    return jax.tree.map(np.asarray, first)
  first = _copy(first)
  jax.tree.map(lambda x: x.copy_to_host_async(), first)
  return first


@jax.jit
def _copy(tree):
  return jax.tree.map(jnp.copy, tree)


def to_host(snapshot):
  """Returns a snapshot as NumPy arrays."""
  return jax.tree.map(lambda x: np.asarray(x)[0], snapshot)


def shard(batches):
  """Returns batches, a list of trees (B, ...), as (devices, updates, B', ...).

  The devices may compute from the very memory of a batch: nothing is to be
  written to it any more.

  Raises:
    ValueError: B is not a multiple of the number of devices.
  """
  devices = jax.local_device_count()

  def stack(*arrays):
    # One is not copied: copying gives way to the threads that read ahead, and
    # then waits for them (of the digits' update of 25 ms, 0.9 instead of 0.08).
    one = len(arrays) == 1
    array = arrays[0][None] if one else np.stack(arrays)  # (updates, B, ...)
    array = array.reshape(len(arrays), devices, -1, *array.shape[2:])
    return array.swapaxes(0, 1)

  return jax.tree.map(stack, *batches)


def updates_per_call(train, num_updates):
  """Returns how many updates one dispatch makes.

  At most `train.substeps`, and a divisor of all updates, lest the last dispatch
  be shorter and compile anew. One on CPU, where a scan makes gradients of
  convolutions slower and saves nothing.
  """
  if jax.default_backend() == 'cpu':
    return 1
  return math.gcd(train.substeps, num_updates)
