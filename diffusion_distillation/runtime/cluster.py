"""Which processes train together: the flags, or the environment, say so."""

import os
import urllib.request

from diffusion_distillation.runtime.errors import UserError


def find(coordinator=None, num_processes=None, process_id=None):
  """Returns how JAX finds the other processes, or None where there are none.

  Where nothing is given, there are others if the environment of a TPU pod or of
  Slurm says so.

  Args:
    coordinator: HOST:PORT where process 0 listens and all others find it.
    num_processes: of all.
    process_id: of this one, from 0 on.

  Returns:
    Arguments of `jax.distributed.initialize`.

  Raises:
    UserError: these are not right.
  """
  given = {
    'coordinator_address': coordinator,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  if set(given.values()) == {None}:
    method = _announced()
    return None if method is None else {'cluster_detection_method': method}
  _check(coordinator, num_processes, process_id)
  if num_processes == 1:
    return None
  return {**given, 'cluster_detection_method': 'deactivate'}


def _check(coordinator, num_processes, process_id):
  """Raises UserError where the flags are not right."""
  if None in (coordinator, num_processes, process_id):
    raise UserError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or none'
    )
  if process_id >= num_processes:
    raise UserError(
      f'--process_id={process_id} must be 0 to {num_processes - 1}, less than '
      '--num_processes'
    )
  host, _, port = coordinator.rpartition(':')
  if not (host and port.isdigit() and 0 < int(port) < 2**16):
    raise UserError(
      f'--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.1:8476'
    )


def _announced():
  """Returns JAX's name of the cluster that has several processes, or None.

  Nothing is asked of any network but of the metadata server that every TPU VM
  of Google's has, and JAX has left that way open only where there are TPUs.
  """
  known = os.environ
  if int(known.get('SLURM_STEP_NUM_TASKS', '1')) > 1:
    return 'slurm'
  hosts = known.get('TPU_PROCESS_ADDRESSES', known.get('TPU_WORKER_HOSTNAMES'))
  if hosts is not None:
    return 'gketpu' if ',' in hosts else None
  if 'TPU_SKIP_MDS_QUERY' in known:
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
  except OSError:  # no such server, or no such attribute: one host
    return None
