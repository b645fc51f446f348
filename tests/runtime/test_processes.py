"""Two processes of two devices each train, stop, fail and resume together."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest

from diffusion_distillation.runtime import processes
from diffusion_distillation.runtime.errors import UserError
from tests.runtime import worker

ROOT = pathlib.Path(__file__).parents[2]
LOST = 'error: another process ended or does not answer'
NO_TPU = {'TPU_SKIP_MDS_QUERY': '1'}  # as `import jax` sets it


def free_port():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


def slurm(process_id):
  """The environment of a task of srun, as JAX reads it."""
  for job in range(4096):
    with socket.socket() as free:
      # The port that JAX makes of a job's number.
      if free.connect_ex(('127.0.0.1', job + 61440)):
        break
  return {
    'SLURM_JOB_ID': str(job),
    'SLURM_STEP_NODELIST': '127.0.0.1',
    'SLURM_NTASKS': '2',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_PROCID': str(process_id),
    'SLURM_LOCALID': str(process_id),
  }


def run_two(folder, action):
  """Returns the status and last line of two workers, and seconds.

  The seconds are those between their ends.
  """
  address, started = f'127.0.0.1:{free_port()}', []
  by_slurm = action == 'interrupt'
  for i in range(2):
    where = () if by_slurm else (address, str(i))
    started.append(
      subprocess.Popen(
        [sys.executable, '-m', 'tests.runtime.worker', folder, action, *where],
        cwd=ROOT,
        env={
          **os.environ,
          **(slurm(i) if by_slurm else {}),
          'XLA_FLAGS': '--xla_cpu_collective_timeout_seconds=1',
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  since, ends = time.monotonic(), {}
  while len(ends) < 2 and time.monotonic() < since + 90:
    time.sleep(0.02)
    for process in started:
      if process.poll() is not None:
        ends.setdefault(process, time.monotonic())
  results = []
  for process in started:
    process.kill()  # if it hangs
    ends.setdefault(process, time.monotonic())
    lines = process.communicate()[1].splitlines()
    results.append((process.returncode, lines[-1] if lines else ''))
  return results, max(ends.values()) - min(ends.values())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('toy')


@pytest.fixture(scope='module')
def story(folder):
  """What became of a training that is interrupted again and again."""
  actions = ('early', 'interrupt', 'die', 'fail')
  return {action: run_two(folder, action) for action in actions}


def test_processes_hear_what_process_0_says(story, folder):
  for i in range(2):
    assert json.loads((folder / f'heard_{i}.json').read_text()) == {
      'same': True,
      'message': True,
      'none': True,
      'gathered': [0, 1, 2, 10, 11, 12],
    }


def test_a_signal_to_one_process_stops_all(story):
  # Two updates after process 1 was asked to.
  line = 'stopped toy at update 7; rerun the same command to resume'
  assert story['interrupt'][0] == [(75, line)] * 2


def test_a_killed_process_ends_the_others(story):
  (lost, killed), seconds = story['die']
  assert killed[0] == -signal.SIGKILL
  assert lost[0] == 75 and lost[1].startswith(LOST)
  assert seconds < 60


def test_an_error_in_one_process_ends_all(story):
  """And not before the others have waited for it to measure."""
  (failed, lost), seconds = story['fail']
  assert failed == (1, 'error: no such image')
  assert lost[0] == 75 and lost[1].startswith(LOST)
  assert seconds < 60


def test_a_signal_outside_of_the_loop_ends_process_0_and_all(story):
  (ended, lost), seconds = story['early']
  assert ended[0] == -signal.SIGTERM
  assert lost[0] == 75 and lost[1].startswith(LOST)
  assert seconds < 60


def test_the_result_is_that_of_one_uninterrupted_process(
  story, folder, tmp_path
):
  with np.load(folder / 'state.npz') as file:
    assert 10 <= file['n'] <= 11
  want = worker.train(tmp_path)
  assert worker.train(folder) == want  # four devices here read what two saved


def test_one_process_decides_for_itself():
  value = object()
  assert processes.broadcast(value) is value
  assert processes.is_main()
  assert [processes.agree_to_stop(asked) for asked in (False, True)] == [
    False,
    True,
  ]
  with processes.joined('127.0.0.1:1', 1, 0):  # connects to nothing
    pass


def test_the_last_update_of_a_training_does_not_miss_a_request(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  asked = [False, True, False, False]
  assert [processes.agree_to_stop(ask) for ask in asked] == [
    *[False] * 3,
    True,
  ]
  assert not processes.agree_to_stop(False, last=True)
  assert processes.agree_to_stop(True, last=True)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((None, 2, 0), 'all three'),
    (('a:1', None, 0), 'all three'),
    (('a:1', 2, None), 'all three'),
    (('a:1', 2, 2), '--process_id=2 must be less than --num_processes=2'),
    (('a', 2, 0), 'HOST:PORT'),
    ((':80', 2, 0), 'HOST:PORT'),
    (('a:0', 2, 0), 'HOST:PORT'),
    (('a:70000', 2, 0), 'HOST:PORT'),
    (('a:b', 2, 0), 'HOST:PORT'),
  ],
)
def test_wrong_flags_are_one_line(flags, message):
  with pytest.raises(UserError, match=message), processes.joined(*flags):
    pass


@pytest.mark.parametrize(
  ('environment', 'metadata', 'method'),
  [
    ({'SLURM_STEP_NUM_TASKS': '8'}, None, 'slurm'),
    ({**NO_TPU, 'SLURM_STEP_NUM_TASKS': '1'}, None, None),
    ({**NO_TPU, 'SLURM_NTASKS': '8'}, None, None),  # sbatch without srun
    (NO_TPU, b'a,b', None),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, None, 'gketpu'),
    ({'TPU_PROCESS_ADDRESSES': 'a:1,b:1'}, None, 'gketpu'),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, b'a,b', None),  # Colab
    ({}, b'unknown:id:10.0.0.1,unknown:id:10.0.0.2', 'gcetpu'),
    ({}, b'unknown:id:10.0.0.1', None),
    ({}, urllib.error.URLError('no such server'), None),
  ],
)
def test_clusters_of_several_processes_are_detected(
  monkeypatch, environment, metadata, method
):
  class Answer:
    def __enter__(self):
      return self

    def __exit__(self, *exception):
      pass

    def read(self):
      return metadata

  def urlopen(request, timeout):
    assert timeout <= 1 and request.get_header('Metadata-flavor') == 'Google'
    assert metadata is not None
    if isinstance(metadata, OSError):
      raise metadata
    return Answer()

  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  monkeypatch.setattr('os.environ', environment)
  assert processes._detected() == method
