"""Measures how long main.py takes to answer, and to make its first update.

Each measurement runs in its own process. The goals: 3 s for --help and wrong
flags; 40 s until the first update on digits, and 15 s with a filled compilation
cache.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

_ANSWERS = 5  # repeats
_TRAININGS = 3
_TIMEOUT = 600  # seconds

_MAIN = (sys.executable, 'main.py', '--config=configs/digits_distill.py')


def rows(subject):
  """Returns the seconds that each start takes.

  Args:
    subject: not used; digits are the quickest config to start.
  """
  del subject
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    caches = [folder / f'cache_{i}' for i in range(_TRAININGS)]
    return [
      _row('--help', 3, [_answer('--help') for _ in range(_ANSWERS)]),
      _row(
        'a wrong flag',
        3,
        [_answer('--config.train.no=1') for _ in range(_ANSWERS)],
      ),
      _row('first step', 40, [_first_step(folder, c) for c in caches]),
      # The caches are now filled.
      _row('first step, cached', 15, [_first_step(folder, c) for c in caches]),
    ]


def _row(what, goal, seconds):
  return {
    'start': what,
    'seconds': statistics.median(seconds),
    'goal': goal,
    'repeats': len(seconds),
  }


def _answer(flag):
  """Returns the seconds until main.py has answered and ended."""
  started = time.monotonic()
  subprocess.run(
    [*_MAIN, flag], capture_output=True, check=False, timeout=_TIMEOUT
  )
  return time.monotonic() - started


def _first_step(folder, cache):
  """Returns the seconds until a new training has logged its first update.

  Args:
    folder: folder for the run folder.
    cache: folder of the compilation cache.

  Raises:
    RuntimeError: the training ended, or took too long, without an update.
  """
  workdir = pathlib.Path(tempfile.mkdtemp(dir=folder))
  metrics, output = workdir / 'run' / 'metrics.jsonl', workdir / 'stderr'
  command = [
    *_MAIN,
    f'--workdir={metrics.parent}',
    '--config.teacher.train.log_loss_every_steps=1',
    f'--config.compilation_cache_dir={cache}',
  ]
  started = time.monotonic()
  with (
    output.open('w') as stderr,
    subprocess.Popen(command, stderr=stderr) as process,
  ):
    try:
      while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None or time.monotonic() - started > _TIMEOUT:
          raise RuntimeError(
            f'{" ".join(command)} made no update: {output.read_text()[-500:]}'
          )
        time.sleep(0.01)
      return time.monotonic() - started
    finally:
      process.kill()
