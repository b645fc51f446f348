"""Interrupts runs many times, and compares what they compute in the end.

python -m benchmarks.kill_resume [--kills=30] [--signal=KILL|TERM|INT]

A small distillation runs once without interruption. Then it runs in other
folders, where it is killed at random moments and resumed by the same command,
until the given number of kills is reached. All results must be equal to the
last bit: weights, optimizer state and averages of every training, and the log
without its times.
"""

import argparse
import itertools
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import orbax.checkpoint as ocp

from diffusion_distillation.runtime import files, log, signals

ROOT = pathlib.Path(__file__).parents[1]
# A run of about half a minute that does everything that a run can do, with
# checkpoints as often as the disk allows.
SETTINGS = (
  '--config=configs/digits_distill.py',
  '--config.model.args.ch=8',
  '--config.model.args.emb_ch=16',
  '--config.model.args.attn_resolutions=()',
  '--config.train.batch_size=16',
  '--config.train.log_loss_every_steps=7',
  '--config.train.checkpoint_every_secs=0',
  '--config.teacher.train.batch_size=16',
  '--config.teacher.train.log_loss_every_steps=7',
  '--config.teacher.train.checkpoint_every_secs=0',
  '--config.teacher.train.num_updates=200',
  '--config.teacher.train.eval_every_steps=80',
  '--config.distillation.start_num_steps=8',
  '--config.distillation.steps_per_iter=100',
  '--config.eval.num_samples=100',
  '--config.eval.batch_size=50',
  '--config.eval.student_samplers=("ddim",)',
)
_PATIENCE = 10  # seconds that a process may take to end after a signal


def start(workdir, settings=SETTINGS):
  """Returns the process of a run that begins or resumes.

  Args:
    workdir: path of the run folder.
    settings: flags of main.py.
  """
  return subprocess.Popen(
    [sys.executable, 'main.py', *settings, f'--workdir={workdir}'],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, delay=None, number=signal.SIGKILL):
  """Returns the last line that a process writes, and its exit status.

  Args:
    process: result of `start`.
    delay: seconds after which the signal is sent, unless the process has ended
      before; None sends no signal.
    number: the signal.
  """
  try:
    _, output = process.communicate(timeout=delay)
  except subprocess.TimeoutExpired:
    process.send_signal(number)
    _, output = process.communicate()
  lines = [line for line in output.splitlines() if line.strip()]
  return lines[-1] if lines else '(no output)', process.returncode


def arrays(workdir):
  """Returns what a run has computed, name -> bytes.

  These are all arrays of the newest checkpoint of each training, and
  metrics.jsonl without its times.
  """
  workdir = pathlib.Path(workdir)
  entries = files.read_jsonl(workdir / 'metrics.jsonl', {})
  found = {'metrics.jsonl': json.dumps(log.without_times(entries)).encode()}
  for folder in sorted(workdir.glob('*/checkpoints')):
    steps = [path for path in folder.iterdir() if path.name.isdecimal()]
    newest = max(steps, key=lambda path: int(path.name))
    for item in ('weights', 'training'):
      tree = ocp.StandardCheckpointHandler().restore(newest / item)
      for keys, leaf in ocp.tree.to_flat_dict(tree).items():
        names = (folder.parent.name, newest.name, item, *map(str, keys))
        found['/'.join(names)] = np.asarray(leaf).tobytes()
  return found


def differences(want, got):
  """Returns the names of the arrays that differ between two results."""
  return sorted(
    name for name in want.keys() | got.keys() if want.get(name) != got.get(name)
  )


def _interrupted(workdir, delays, number):
  """Runs to the end with interruptions, and yields once for each of them.

  Args:
    workdir: path of the run folder.
    delays: iterator of seconds until the next signal; None sends no more.
    number: the signal.

  Yields:
    (delay, seconds from the signal to the end, exit status, last line).
  """
  # SIGTERM and SIGINT end the training loop with a special status once it has
  # saved, and anywhere else they end the process directly.
  expected = {0, -number}
  if number != signal.SIGKILL:
    expected.add(signals.STATUS)
  for delay in delays:
    started = time.monotonic()
    said, status = finish(start(workdir), delay, number)
    if status not in expected:
      sys.exit(f'status {status}: {said}')
    if status == 0:
      return
    yield delay, time.monotonic() - started - delay, status, said


def _options():
  parser = argparse.ArgumentParser(prog='python -m benchmarks.kill_resume')
  parser.add_argument('--kills', type=int, default=30)
  parser.add_argument(
    '--signal', choices=('KILL', 'TERM', 'INT'), default='KILL'
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='seed of the times of the kills'
  )
  return parser.parse_args()


def main():
  """Interrupts runs as the command line says; exits with 1 if any differs."""
  options = _options()
  number = signal.Signals[f'SIG{options.signal}']
  rng = random.Random(options.seed)
  kills, runs, wrong = 0, 0, set()
  with tempfile.TemporaryDirectory() as folder:
    whole = pathlib.Path(folder, 'whole')
    started = time.monotonic()
    said, status = finish(start(whole))
    if status != 0:
      sys.exit(f'status {status}: {said}')
    seconds, want = time.monotonic() - started, arrays(whole)
    print(f'uninterrupted: {seconds:.1f} s, {len(want) - 1} arrays', flush=True)

    def next_delay():
      return rng.uniform(0, 0.7 * seconds) if kills < options.kills else None

    while kills < options.kills:
      runs += 1
      workdir = pathlib.Path(folder, f'interrupted_{runs}')
      delays = (next_delay() for _ in itertools.count())
      for delay, ended, status, said in _interrupted(workdir, delays, number):
        kills += 1
        print(
          f'{kills:3}: {number.name} after {delay:4.1f} s, status {status}, '
          f'ended {ended:3.1f} s later: {said[:70]}',
          flush=True,
        )
        if ended > _PATIENCE:
          wrong.add(f'kill {kills} took {ended:.1f} s')
      different = differences(want, arrays(workdir))
      print(f'run {runs} ended; differences: {different[:3]}', flush=True)
      wrong.update(different)
  print(f'{kills} kills, {runs} runs: {"; ".join(sorted(wrong)) or "the same"}')
  sys.exit(1 if wrong else 0)


if __name__ == '__main__':
  main()
