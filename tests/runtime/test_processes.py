"""Several processes of two devices each, and one of 1, 2 or 4 devices."""

import json
import os
import pathlib
import shutil
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

from diffusion_distillation import modes
from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.networks import denoiser
from diffusion_distillation.runtime import cluster, processes
from diffusion_distillation.runtime.errors import UserError
from tests.runtime.worker import build_toy
from tests.test_main import run

ROOT = pathlib.Path(__file__).parents[2]
STAGES = ('teacher', 'student_00002', 'student_00001')
NO_TPU = {'TPU_SKIP_MDS_QUERY': '1'}  # as `import jax` sets it
FLAGS = (
  '--config=configs/digits_distill.py',
  '--config.dataset.args.class_conditional=True',
  '--config.distillation.start_num_steps=4',
  '--config.distillation.steps_per_iter=3',
  # Samples are drawn during training, and after it.
  '--config.teacher.train.eval_every_steps=4',
  '--config.eval.num_samples=20',
  '--config.eval.batch_size=8',
  '--config.eval.max_num_steps=1',
  '--config.eval.samplers=("ddim",)',
  '--config.eval.student_samplers=("ddim",)',
  '--config.teacher.train.num_updates=6',
  *(
    f'--config.{section}{key}'
    for section in ('train.', 'teacher.train.')
    for key in (
      'batch_size=16',
      'log_loss_every_steps=2',
      'checkpoint_every_secs=0',
      # Momentum, not Adam, which blows the rounding of small gradients up.
      'optimizer=momentum',
      'grad_clip=0.05',
    )
  ),
)


def free_address():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


def start(*arguments):
  cache = jax.config.jax_compilation_cache_dir
  return subprocess.Popen(
    [sys.executable, '-m', 'tests.runtime.worker', *map(str, arguments)],
    cwd=ROOT,
    env={
      **os.environ,
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
      'JAX_COMPILATION_CACHE_DIR': cache,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(workdir, *flags, dies=None, dies_at=0):
  address = free_address()
  return [
    start(
      'train',
      2,
      dies_at if i == dies else 0,
      *FLAGS,
      *flags,
      f'--workdir={workdir}',
      f'--coordinator={address}',
      '--num_processes=2',
      f'--process_id={i}',
    )
    for i in range(2)
  ]


def end(started):
  """Returns the exit status and the last line of each process."""
  results = []
  for process in started:
    _, said = process.communicate(timeout=90)
    results.append((process.returncode, said.splitlines()[-1:]))
  return results


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folders of one and the same training, on one device and on 2 x 2."""
  folder = tmp_path_factory.mktemp('runs')
  alone = start('train', 1, 0, *FLAGS, f'--workdir={folder / "1"}')
  started = [alone, *start_two(folder / '2x2')]
  assert [status for status, _ in end(started)] == [0, 0, 0]
  return folder


def weights(workdir):
  return [checkpoints.load(workdir / stage).weights for stage in STAGES]


def log(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def assert_same_weights(one, other):
  """Up to the order of float32 sums: some 2^-24 in each of 12 updates."""
  chex.assert_trees_all_close(
    weights(one), weights(other), rtol=1e-4, atol=1e-6
  )


@pytest.mark.slow
def test_two_processes_train_as_one_does(runs):
  # The clip is active: that is where per-device clipping would show.
  assert all(line.get('grad_norm', 1) > 0.05 for line in log(runs / '1'))
  assert_same_weights(runs / '2x2', runs / '1')
  for ours, theirs in zip(log(runs / '2x2'), log(runs / '1'), strict=True):
    assert ours.keys() == theirs.keys()
    assert ours['stage'] == theirs['stage'] and ours['step'] == theirs['step']
    if 'loss' in ours:
      np.testing.assert_allclose(ours['loss'], theirs['loss'], rtol=1e-4)


def test_two_processes_write_what_one_does(runs):
  def names(workdir):
    return sorted(
      str(path.relative_to(workdir))
      for path in workdir.rglob('*')
      if not {'teacher', 'tensorboard', *STAGES} & set(path.parts)
    )

  assert names(runs / '2x2') == names(runs / '1')
  assert (runs / '2x2' / 'report' / 'index.html').exists()
  events = [*(runs / '2x2' / 'tensorboard').rglob('*events*')]
  assert len([path for path in events if path.is_file()]) == len(STAGES)


def test_the_images_are_those_of_one_process(runs):
  measured = [
    json.loads((runs / name / 'report' / 'report.json').read_text())['rows']
    for name in ('2x2', '1')
  ]
  for ours, theirs in zip(*measured, strict=True):
    for key in ('sampler', 'num_steps', 'precision'):
      assert ours[key] == theirs[key]
    # A pixel may be rounded to its neighbour.
    np.testing.assert_allclose(
      ours['frechet_distance'], theirs['frechet_distance'], rtol=1e-2
    )


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
  """The folder of a run whose process 1 was killed in its second round."""
  workdir = tmp_path_factory.mktemp('killed') / 'run'
  started = start_two(workdir, dies=1, dies_at=11)
  assert started[1].wait(90) == -signal.SIGKILL
  assert_lost(started[0])
  return workdir


def assert_lost(process):
  """It ends within a minute, with a status and a line."""
  since = time.monotonic()
  ((status, said),) = end([process])
  assert time.monotonic() - since < 60
  assert status == processes.STATUS
  assert said[0].startswith('error: another process ended')


@pytest.mark.slow
def test_a_rerun_after_a_kill_gives_the_same_bit_for_bit(
  runs, killed, tmp_path
):
  assert (killed / STAGES[1]).exists() and not (killed / 'report').exists()
  workdir = shutil.copytree(killed, tmp_path / 'run')
  assert [status for status, _ in end(start_two(workdir))] == [0, 0]
  chex.assert_trees_all_equal(weights(workdir), weights(runs / '2x2'))
  assert log(workdir) == log(runs / '2x2')


@pytest.mark.slow
def test_another_number_of_devices_goes_on(runs, killed, tmp_path, monkeypatch):
  workdir = shutil.copytree(killed, tmp_path / 'run')
  monkeypatch.setattr(denoiser, 'UNet', build_toy)
  assert jax.device_count() == 4
  assert run(*FLAGS, f'--workdir={workdir}') is None
  assert_same_weights(workdir, runs / '1')


def test_processes_hear_what_process_0_says_and_stop_together(tmp_path):
  address = free_address()
  started = [start('talk', address, i, tmp_path / str(i)) for i in range(2)]
  assert started[0].wait(90) == -signal.SIGKILL
  assert_lost(started[1])
  for i in range(2):
    assert json.loads((tmp_path / str(i)).read_text()) == {
      'same': True,
      'step': ['int32', 3],
      'card': {'a.b': [1, 2.5, 'c', None, True]},
      'none': None,
      'gathered': [0, 1, 2, 10, 11, 12],
      'stops': 7,  # two updates after process 1 was asked to
    }


def test_processes_that_stop_wait_for_process_0(tmp_path):
  address = free_address()
  started = [start('stop', address, i, tmp_path / str(i)) for i in range(2)]
  for status, said in end(started):
    assert status == processes.STATUS
    assert not any('error' in line for line in said)
  assert [(tmp_path / str(i)).read_text() for i in range(2)] == ['7', '7']


def test_a_signal_to_one_stops_a_training_of_two_and_saves_it(tmp_path):
  never = '--config.teacher.train.eval_every_steps=100'
  started = start_two(tmp_path / 'run', never)
  lines = tmp_path / 'run' / 'metrics.jsonl'
  while not (lines.exists() and lines.read_text()):
    assert all(process.poll() is None for process in started)
    time.sleep(0.01)
  started[1].send_signal(signal.SIGTERM)
  results = end(started)
  assert [status for status, _ in results] == [processes.STATUS] * 2
  newest = checkpoints.find(tmp_path / 'run' / 'teacher')
  for _, said in results:
    assert said == [
      f'stopped teacher at update {newest.name}; the same command goes on'
    ]


def test_one_process_decides_for_itself():
  value = object()
  assert processes.broadcast(value) is value
  assert processes.is_main()
  assert [processes.agree_to_stop(asked) for asked in (False, True)] == [
    False,
    True,
  ]
  with processes.joined('127.0.0.1:1', 1, 0):  # connects to nobody
    pass


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((None, 2, 0), 'all three'),
    (('a:1', None, 0), 'all three'),
    (('a:1', 2, None), 'all three'),
    (('a:1', 2, 2), '--process_id=2 must be 0 to 1'),
    (('a', 2, 0), 'HOST:PORT'),
    ((':80', 2, 0), 'HOST:PORT'),
    (('a:0', 2, 0), 'HOST:PORT'),
    (('a:70000', 2, 0), 'HOST:PORT'),
    (('a:b', 2, 0), 'HOST:PORT'),
  ],
)
def test_wrong_flags_are_one_line(flags, message):
  with pytest.raises(UserError, match=message):
    cluster.find(*flags)


def test_a_mode_of_one_process_refuses_more():
  options = {'coordinator': 'a:1', 'num_processes': 2, 'process_id': 0}
  with pytest.raises(UserError, match='--mode=plan is of one process'):
    modes.run('plan', options)


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
def test_what_the_environment_announces(
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
  found = cluster.find()
  assert found == (method and {'cluster_detection_method': method})
