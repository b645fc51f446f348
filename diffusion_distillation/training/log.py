"""What a run tells: a progress line, metrics.jsonl and TensorBoard events."""

import json
import pathlib
import sys
import time

import tensorboardX


class RunLog:
  """Writes the metrics of a run to its folder, and progress to the terminal."""

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'metrics.jsonl'
    self._tensorboard = pathlib.Path(workdir) / 'tensorboard'
    self._writers = {}

  def rewind(self, stage, step):
    """Forgets what was logged of a stage after `step`: it is done again."""
    if self._path.exists():
      lines = self._path.read_text().splitlines()
      kept = [line for line in lines if not _is_after(line, stage, step)]
      if len(kept) < len(lines):
        self._path.write_text(''.join(f'{line}\n' for line in kept))
    self._writers[stage] = tensorboardX.SummaryWriter(
      str(self._tensorboard / stage), purge_step=step + 1
    )

  def write(self, stage, step, metrics):
    """Adds one line of metrics, a dict of floats."""
    with self._path.open('a') as file:
      file.write(json.dumps({'stage': stage, 'step': step, **metrics}) + '\n')
    for name, value in metrics.items():
      self._writers[stage].add_scalar(name, value, step)

  def close(self):
    for writer in self._writers.values():
      writer.close()


def _is_after(line, stage, step):
  try:
    entry = json.loads(line)
  except json.JSONDecodeError:
    return True  # the last line of a run that was killed
  return entry['stage'] == stage and entry['step'] > step


class Progress:
  """A live line: what, how far, how fast, how long still.

  On a terminal the line rewrites itself; elsewhere one is printed at most every
  ten seconds.
  """

  def __init__(self, what, total, unit='updates'):
    self._what, self._total, self._unit = what, total, unit
    self._first = None  # time and count of the first line, compilation over
    self._printed = -float('inf')
    self._live = sys.stderr.isatty()

  def show(self, done, text=''):
    """Shows that `done` of the total are done; `text` says more."""
    now, last = time.monotonic(), done >= self._total
    if self._first is None:
      self._first = now, done
    if not (last or self._live or now - self._printed >= 10):
      return
    self._printed = now
    parts = [self._what, f'{done}/{self._total}', text, self._speed(now, done)]
    line = '  '.join(part for part in parts if part)
    start, end = (
      ('\r\x1b[K', '\n' if last else '') if self._live else ('', '\n')
    )
    print(f'{start}{line}', end=end, file=sys.stderr, flush=True)

  def _speed(self, now, done):
    """Returns rate and time left, once there are two lines to tell them by."""
    started, first = self._first
    if now == started or done == first:
      return ''
    rate = (done - first) / (now - started)
    left = duration((self._total - done) / rate)
    return f'{rate:.3g} {self._unit}/s  {left} left'


def duration(seconds):
  """Returns seconds as h:mm:ss."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
