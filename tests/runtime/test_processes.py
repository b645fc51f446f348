"""Two processes of two devices each train, stop, fail and resume together.

Most tests use a toy training, see `worker`; one of them runs main.py.
"""

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

import chex
import jax
import numpy as np
import pytest

from diffusion_distillation import checkpoints
from diffusion_distillation.runtime import devices, files, processes
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import without_times
from tests.runtime import worker
from tests.test_main import run

ROOT = pathlib.Path(__file__).parents[2]
LOST = 'error: another process ended or does not answer'
MAIN = (
  '--config=tests/toy_distill.py',
  '--config.teacher.train.num_updates=6',
  '--config.teacher.train.eval_every_steps=4',
  '--config.eval.num_samples=20',
  '--config.eval.max_num_steps=1',
  '--config.eval.samplers=("ddim",)',
  *(
    f'--config.{section}train.{setting}'
    for section in ('', 'teacher.')
    for setting in (
      'log_loss_every_steps=2',
      'checkpoint_every_secs=0',
      # Momentum does not amplify the rounding of small gradients, as Adam does.
      'optimizer=momentum',
      'grad_clip=0.02',
    )
  ),
)
NO_TPU = {'TPU_SKIP_MDS_QUERY': '1'}  # as `import jax` sets it


def free_port():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


def slurm(process_id):
  """The environment of a task of srun, as JAX reads it."""
  for job in range(4096):
    with socket.socket() as free:
      # JAX makes the port from the number of a job.
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


def wait(started):
  """Returns the status and last line of each process, and seconds.

  The seconds are those from the first end to the last.
  """
  since, ends = time.monotonic(), {}
  while len(ends) < len(started) and time.monotonic() < since + 90:
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


def start(command, **environment):
  return subprocess.Popen(
    [sys.executable, *map(str, command)],
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '2', **environment},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def run_toy(folder, action):
  """Returns what `wait` returns of two workers."""
  worker = ('-m', 'tests.runtime.worker', folder, action)
  flags = '--xla_cpu_collective_timeout_seconds=1'
  if action == 'interrupt':
    started = [start(worker, XLA_FLAGS=flags, **slurm(i)) for i in range(2)]
  else:
    address = f'127.0.0.1:{free_port()}'
    started = [start((*worker, address, i), XLA_FLAGS=flags) for i in range(2)]
  return wait(started)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('toy')


@pytest.fixture(scope='module')
def story(folder):
  """Results of a training that is interrupted several times, by action."""
  actions = ('early', 'interrupt', 'die', 'fail')
  return {action: run_toy(folder, action) for action in actions}


def test_all_processes_receive_what_process_0_sends(story, folder):
  for i in range(2):
    assert json.loads((folder / f'heard_{i}.json').read_text()) == {
      'same': True,
      'message': True,
      'none': True,
      'gathered': [0, 1, 2, 10, 11, 12],
    }


def test_a_signal_to_one_process_stops_all(story):
  # Both stop two updates after the request to process 1.
  line = 'stopped toy at update 7; rerun the same command to resume'
  assert story['interrupt'][0] == [(75, line)] * 2


def test_a_killed_process_ends_the_others(story):
  (lost, killed), seconds = story['die']
  assert killed[0] == -signal.SIGKILL
  assert lost[0] == 75 and lost[1].startswith(LOST)
  assert seconds < 60


def test_an_error_in_one_process_ends_all(story):
  """The others first wait for a process that is still measuring."""
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


def start_main(workdir):
  """Returns two processes of main.py."""
  cache = jax.config.jax_compilation_cache_dir
  where = f'127.0.0.1:{free_port()}'
  command = ('main.py', *MAIN, f'--workdir={workdir}')
  return [
    start(
      (
        *command,
        f'--coordinator={where}',
        '--num_processes=2',
        f'--process_id={i}',
      ),
      JAX_COMPILATION_CACHE_DIR=cache,
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
    )
    for i in range(2)
  ]


class KilledError(Exception):
  pass


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folders of a run of one process, and of one that two processes resume.

  One process here has four devices.
  """
  one, two = (tmp_path_factory.mktemp('main') / name for name in ('1', '2'))
  assert run(*MAIN, f'--workdir={one}') is None
  shard, calls = devices.shard, []

  def shard_until_killed(batches):
    calls.append(batches)
    if len(calls) == 4:
      raise KilledError
    return shard(batches)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(devices, 'shard', shard_until_killed)
    with pytest.raises(KilledError):
      run(*MAIN, f'--workdir={two}')
  results, _ = wait(start_main(two))
  assert [status for status, _ in results] == [0, 0]
  return one, two


@pytest.mark.slow
def test_two_processes_train_as_one_does(runs):
  logs = [files.read_jsonl(workdir / 'metrics.jsonl') for workdir in runs]
  for one, two in zip(*map(without_times, logs), strict=True):
    assert one.keys() == two.keys()
    assert (one['stage'], one['step']) == (two['stage'], two['step'])
    if 'loss' in one:
      # The clip is active: clipping per device would show.
      assert one['grad_norm'] > 0.02
      np.testing.assert_allclose(two['loss'], one['loss'], rtol=1e-4)
  for stage in ('teacher', 'student_00002', 'student_00001'):
    one, two = (checkpoints.load(workdir / stage).weights for workdir in runs)
    # Only the order of float32 sums differs.
    chex.assert_trees_all_close(two, one, rtol=1e-4, atol=1e-6)


def test_two_processes_write_what_one_does(runs):
  def names(workdir):
    return sorted(
      str(path.relative_to(workdir))
      for path in workdir.rglob('*')
      if not {'checkpoints', 'tensorboard'} & set(path.parts)
    )

  one, two = runs
  assert names(two) == names(one)
  assert 'report/index.html' in names(two)


def test_two_processes_draw_the_images_that_one_does(runs):
  reports = [
    json.loads((workdir / 'report' / 'report.json').read_text())
    for workdir in runs
  ]
  for one, two in zip(*(report['rows'] for report in reports), strict=True):
    for key in ('network', 'sampler', 'num_steps', 'precision'):
      assert two[key] == one[key]
    # A pixel may be rounded to its neighbour.
    np.testing.assert_allclose(
      two['frechet_distance'], one['frechet_distance'], rtol=1e-2
    )


def test_a_single_process_needs_no_others():
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
def test_wrong_flags_get_one_line(flags, message):
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
