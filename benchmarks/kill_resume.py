"""Kills a run again and again, and compares what comes out of it.

python -m benchmarks.kill_resume [--kills=30] [--signal=KILL|TERM|INT]

It runs a small distillation without interruption, and then again, killed at
random moments and resumed by the same command. Both must give the same bytes:
weights, optimizer state and averages of every training, and the log without its
times.
"""

import argparse
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

from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.log import without_times
from diffusion_distillation.runtime.signals import STATUS

ROOT = pathlib.Path(__file__).parents[1]
# All that a run does in half a minute, with checkpoints as often as the disk
# allows.
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
_PATIENCE = 10  # seconds from the signal to the end


def start(workdir, settings=SETTINGS):
  """Returns the process of a run that begins or resumes."""
  return subprocess.Popen(
    [sys.executable, 'main.py', *settings, f'--workdir={workdir}'],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, delay=None, how=signal.SIGKILL):
  """Returns the last line of what a process says, and its exit status.

  Args:
    process: of `start`.
    delay: seconds until it is killed, if it has not ended before.
    how: the signal.
  """
  try:
    _, said = process.communicate(timeout=delay)
  except subprocess.TimeoutExpired:
    process.send_signal(how)
    _, said = process.communicate()
  lines = [line for line in said.splitlines() if line.strip()] or ['(nothing)']
  return lines[-1], process.returncode


def arrays(workdir):
  """Returns what a run has made, name -> bytes."""
  workdir = pathlib.Path(workdir)
  log = without_times(files.read_jsonl(workdir / 'metrics.jsonl'))
  found = {'metrics.jsonl': json.dumps(log).encode()}
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
  """Returns the names of what differs between the arrays of two runs."""
  return sorted(
    n for n in want.keys() | got.keys() if want.get(n) != got.get(n)
  )


def main():
  parser = argparse.ArgumentParser(prog='python -m benchmarks.kill_resume')
  parser.add_argument('--kills', type=int, default=30)
  parser.add_argument(
    '--signal', choices=('KILL', 'TERM', 'INT'), default='KILL'
  )
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  args = parser.parse_args()
  how, rng = signal.Signals[f'SIG{args.signal}'], random.Random(args.seed)
  with tempfile.TemporaryDirectory() as folder:
    whole = pathlib.Path(folder, 'whole')
    begun = time.monotonic()
    said, status = finish(start(whole))
    if status != 0:
      sys.exit(f'status {status}: {said}')
    seconds, want = time.monotonic() - begun, arrays(whole)
    print(f'uninterrupted: {seconds:.1f} s, {len(want) - 1} arrays', flush=True)
    kills, runs, wrong = 0, 0, set()
    while kills < args.kills:
      killed, status, runs = (
        pathlib.Path(folder, f'killed_{runs}'),
        -1,
        runs + 1,
      )
      while status != 0:
        delay = None
        if kills < args.kills:
          delay = rng.uniform(0, 0.7 * seconds)
        begun = time.monotonic()
        said, status = finish(start(killed), delay, how)
        # A training loop saves; elsewhere the signal ends the process.
        if status not in (0, -how, STATUS):
          sys.exit(f'status {status}: {said}')
        if status != 0:
          kills += 1
          ended = time.monotonic() - begun - delay
          print(
            f'{kills:3}: killed after {delay:4.1f} s, status {status}, ended '
            f'{ended:3.1f} s later: {said[:70]}',
            flush=True,
          )
          if ended > _PATIENCE:
            wrong.add(f'kill {kills}: {ended:.1f} s')
      different = differences(want, arrays(killed))
      print(f'run {runs} ended; differences: {different[:3]}', flush=True)
      wrong.update(different)
  print(f'{kills} kills, {runs} runs: {"; ".join(sorted(wrong)) or "the same"}')
  sys.exit(1 if wrong else 0)


if __name__ == '__main__':
  main()
