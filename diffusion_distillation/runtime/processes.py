"""Several processes: they begin together, agree, and end together.

Each runs the same program on devices of its own, which compute as one. Process
0 alone reads checkpoints and writes files; what it finds, it tells the others.
"""

import atexit
import collections
import contextlib
import ctypes
import os
import re
import signal
import sys
import threading

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from diffusion_distillation.runtime import cluster, devices
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.signals import STATUS

_LOST = (
  'another process ended, or does not answer, and says why; the same '
  'command on all of them goes on'
)
# What collectives and the coordination say of it.
_PEER = re.compile(
  'gloo|nccl|connect|heartbeat|coordination|barrier|peer', re.I
)
_HEARTBEAT_SECONDS = 30  # without a sign of life, after which all give up
_PATIENCE_SECONDS = 7 * 24 * 3600  # of those who wait while process 0 measures
_CHUNK = 2**26  # bytes sent at once
_LAG = 2  # calls, as the loop is ahead of the devices

_votes = collections.deque()
_agreed = threading.Event()


@contextlib.contextmanager
def joined(coordinator=None, num_processes=None, process_id=None):
  """Joins this process to the others, if there are any, while the block runs.

  To be entered before JAX looks for devices. For the arguments, see
  `cluster.find`.

  Raises:
    UserError: they are wrong, the processes do not find each other, or another
      one ended.
  """
  found = cluster.find(coordinator, num_processes, process_id)
  if found is None:
    yield
    return
  status = 1
  try:
    _connect(found)
    yield
    jax.distributed.shutdown()  # waits for all
    status = None
  except jax.errors.JaxRuntimeError as error:
    if not _PEER.search(str(error)):
      raise  # of this process alone
    status = STATUS
    raise UserError(f'{_LOST} ({str(error).splitlines()[0]})') from error
  except KeyboardInterrupt:
    status = STATUS
    if _agreed.is_set():
      # Updates in flight, and what process 0 saves, need all to stay till then.
      jax.distributed.shutdown()
    raise
  finally:
    if status is not None:
      # At exit, JAX would wait for the others, who may wait for this one.
      atexit.register(_leave, status)


def _connect(found):
  """Finds the other processes, and all of their devices.

  Raises:
    UserError: they are not there.
  """
  # Its handler of SIGTERM would take the place of ours.
  jax.config.update('jax_enable_preemption_service', False)
  # Gloo gives up after half an hour. That one hangs, the heartbeat tells.
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} '
    f'--xla_cpu_collective_timeout_seconds={_PATIENCE_SECONDS}'
  )
  ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
  try:
    jax.distributed.initialize(
      **found,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_PATIENCE_SECONDS,
    )
    jax.devices()
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'the processes did not find each other: {str(error).splitlines()[0]}'
    ) from error


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number):
  """Handles SIGABRT, with a line of ours.

  JAX aborts as soon as the process that coordinates is gone, or heartbeats
  fail, in a thread of its own, and takes no callback of Python's. A handler of
  the module `signal` would wait for the main thread, which never comes back.
  """
  del number
  os.write(2, f'error: {_LOST}\n'.encode())
  os._exit(STATUS)


def _leave(status):
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def is_main():
  """Returns whether this is process 0, which reads and writes all files."""
  return jax.process_index() == 0


def broadcast(value):
  """Returns process 0's value on every process, bit for bit.

  All call it, in the same order. It takes one message for all arrays together.

  Args:
    value: None, or of dicts with string keys, lists, strings, numbers and NumPy
      arrays. Nobody looks at what the other processes give.
  """
  if jax.process_count() == 1:
    return value
  data = serialization.msgpack_serialize(value) if is_main() else b''
  size = _send(np.frombuffer(len(data).to_bytes(8), np.uint8))
  buffer = np.zeros(int.from_bytes(size.tobytes()), np.uint8)
  if is_main():
    buffer[:] = np.frombuffer(data, np.uint8)
  for first in range(0, len(buffer), _CHUNK):
    chunk = slice(first, first + _CHUNK)
    buffer[chunk] = _send(buffer[chunk])
  return serialization.msgpack_restore(buffer.tobytes())


def _send(array):
  # A sum with zeros: of bytes, since of floats it makes -0.0 another number.
  return multihost_utils.broadcast_one_to_all(array)


def agree_to_stop(requested):
  """Returns whether all processes stop now, since one was asked to.

  All call it after every update. Lest it wait for the update just started, it
  tells what was asked two calls before; it costs one message of a byte, which
  is on its way meanwhile.

  Args:
    requested: whether this one was asked to; alone, it is the answer.
  """
  if jax.process_count() == 1:
    return requested
  _votes.append(devices.any_replica(requested))
  if len(_votes) > _LAG and devices.unreplicate(_votes.popleft()):
    _agreed.set()
  return _agreed.is_set()
