"""Several processes that train together, such as one on each machine.

Each process runs the same program on its own devices, and all devices compute
as one. Process 0 alone reads checkpoints and writes files, and sends the others
what they need. JAX connects the processes and detects clusters; this module has
what tests of two real processes (tests/runtime/test_processes.py) showed to be
needed besides.
"""

import atexit
import collections
import contextlib
import ctypes
import os
import signal
import sys
import urllib.request

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from diffusion_distillation.runtime import devices, files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.signals import STATUS, Stopped

_LOST = (
  'another process ended or does not answer, see its output; rerun the same '
  'command on all processes to resume'
)
# XLA's status codes for errors that another process cannot cause.
_OWN_ERRORS = ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED')
_HEARTBEAT_SECONDS = 30  # a process that is silent for longer counts as lost
_PATIENCE_SECONDS = 7 * 24 * 3600  # longest wait while process 0 is busy
_CHUNK = 2**26  # bytes of a broadcast that are on the devices at a time
_LAG = 2  # calls that the training loop is ahead of the devices

_votes = collections.deque()


@contextlib.contextmanager
def joined(coordinator=None, num_processes=None, process_id=None):
  """Connects this process to the others, if any, while the context lasts.

  It must be entered before JAX initializes its devices. Without arguments,
  Slurm and TPU pods are detected from the environment.

  Args:
    coordinator: HOST:PORT where process 0 listens.
    num_processes: how many processes there are.
    process_id: number of this process, from 0.

  Raises:
    UserError: the arguments are wrong, the processes do not find each other, or
      another one ended.
  """
  arguments = _arguments(coordinator, num_processes, process_id)
  if arguments is None:
    yield
    return
  status = 1
  try:
    _connect(arguments)
    yield
    jax.distributed.shutdown()  # waits for all processes
    status = None
  except Stopped:
    # All processes stop after the same update, and wait until process 0 has
    # saved it: it could not finish without them.
    status = STATUS
    jax.distributed.shutdown()
    status = None
    raise
  except jax.errors.JaxRuntimeError as error:
    if str(error).startswith(_OWN_ERRORS):
      raise
    # A collective fails as soon as another process is gone.
    status = STATUS
    raise UserError(f'{_LOST} ({files.reason(error)})') from error
  finally:
    if status is not None:
      atexit.register(_exit, status)


def _arguments(coordinator, num_processes, process_id):
  """Returns arguments of `jax.distributed.initialize`, or None if alone.

  Raises:
    UserError: the arguments are wrong.
  """
  given = {
    'coordinator_address': coordinator,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  if set(given.values()) == {None}:
    method = _detected()
    return None if method is None else {'cluster_detection_method': method}
  if None in given.values():
    raise UserError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or none'
    )
  if process_id >= num_processes:
    raise UserError(
      f'--process_id={process_id} must be less than --num_processes='
      f'{num_processes}: the first process has number 0'
    )
  host, _, port = coordinator.rpartition(':')
  if not (host and port.isdigit() and 0 < int(port) < 2**16):
    raise UserError(
      f'--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.1:8476'
    )
  if num_processes == 1:
    return None
  return {**given, 'cluster_detection_method': 'deactivate'}


def _detected():
  """Returns JAX's name for a cluster of several processes, or None.

  JAX detects a cluster, but not whether a process is alone in it, as in an
  interactive Slurm session, on a TPU with one host, or on Colab.
  """
  known = os.environ
  if int(known.get('SLURM_STEP_NUM_TASKS', '1')) > 1:
    return 'slurm'
  hosts = known.get('TPU_PROCESS_ADDRESSES', known.get('TPU_WORKER_HOSTNAMES'))
  if hosts is not None:
    return 'gketpu' if ',' in hosts else None
  if 'TPU_SKIP_MDS_QUERY' in known:  # JAX sets it where there is no TPU
    return None
  server = known.get('GCE_METADATA_IP', '169.254.169.254')
  request = urllib.request.Request(
    f'http://{server}/computeMetadata/v1/instance/attributes/'
    'worker-network-endpoints',
    headers={'Metadata-Flavor': 'Google'},
  )
  try:
    with urllib.request.urlopen(request, timeout=1) as answer:
      return 'gcetpu' if b',' in answer.read() else None
  except OSError:  # no such server or attribute: this host is alone
    return None


def _connect(arguments):
  """Finds the other processes and all devices.

  Raises:
    UserError: the processes do not find each other.
  """
  # JAX's preemption service would handle SIGTERM from here on, and not end the
  # process (test_a_signal_outside_of_the_loop_ends_process_0_and_all).
  jax.config.update('jax_enable_preemption_service', False)
  # Gloo waits for process 0 for half an hour, and measuring can take longer
  # (test_an_error_in_one_process_ends_all).
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} '
    f'--xla_cpu_collective_timeout_seconds={_PATIENCE_SECONDS}'
  )
  ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
  try:
    jax.distributed.initialize(
      **arguments,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_PATIENCE_SECONDS,
    )
    jax.devices()
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'the processes did not find each other: {files.reason(error)}'
    ) from error


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number):
  """Ends the process with one line and our status when JAX aborts it.

  A thread of JAX aborts, with a stack trace of C++, when process 0 is gone or
  heartbeats fail. A handler of the module `signal` would not run: the main
  thread waits for the other processes
  (test_a_killed_process_ends_the_others).
  """
  del number
  os.write(2, f'error: {_LOST}\n'.encode())
  os._exit(STATUS)


def _exit(status):
  """Ends the process at once.

  At exit JAX waits for all processes, and the others wait for this one in a
  collective (test_an_error_in_one_process_ends_all).
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def is_main():
  """Returns whether this is process 0, which reads and writes all files."""
  return jax.process_index() == 0


def broadcast(value):
  """Returns the value of process 0 in every process, bit for bit.

  All processes must call it, in the same order.

  Args:
    value: None or a tree of dicts with string keys, lists, strings, numbers and
      NumPy arrays. Only the value of process 0 matters.
  """
  if jax.process_count() == 1:
    return value
  data = serialization.msgpack_serialize(value) if is_main() else b''

  # JAX broadcasts arrays whose shape every process knows, as a sum with zeros.
  # That is exact for bytes, but would change the float -0.0.
  def send(array):
    try:
      return multihost_utils.broadcast_one_to_all(array)
    except ValueError as error:  # JAX's type for a peer that is gone here
      raise jax.errors.JaxRuntimeError(str(error)) from error

  size = send(np.frombuffer(len(data).to_bytes(8), np.uint8))
  buffer = np.zeros(int.from_bytes(size.tobytes()), np.uint8)
  if is_main():
    buffer[:] = np.frombuffer(data, np.uint8)
  for first in range(0, len(buffer), _CHUNK):
    chunk = slice(first, first + _CHUNK)
    buffer[chunk] = send(buffer[chunk])
  return serialization.msgpack_restore(buffer.tobytes())


def agree_to_stop(requested, *, last=False):
  """Returns whether all processes stop now because one was asked to.

  All processes must call it after every update, and get the same answer. The
  answer is about the requests of two calls before, so that the call need not
  wait for the update that the devices are computing.

  JAX's `multihost_utils.reached_preemption_sync_point` handles SIGTERM only,
  not the Ctrl-C of test_a_signal_to_one_process_stops_all.

  Args:
    requested: whether this process was asked to stop.
    last: whether no update follows soon, as at the end of a training or before
      an evaluation; the call then waits, and answers for the current requests.
  """
  if jax.process_count() == 1:
    return requested
  _votes.append(devices.any_process(requested))
  stop = False
  while len(_votes) > (0 if last else _LAG):
    stop |= bool(devices.unreplicate(_votes.popleft()))
  return stop
