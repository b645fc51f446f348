"""What a run tells: a progress line, metrics.jsonl and TensorBoard events."""

import pathlib
import shutil
import sys
import time

import tensorboardX

from diffusion_distillation.training import files, processes


class RunLog:
  """Writes the metrics of a run to its folder, and progress to the terminal."""

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'metrics.jsonl'
    self._tensorboard = pathlib.Path(workdir) / 'tensorboard'
    self._writers = {}

  def rewind(self, stage, step):
    """Forgets what was logged of a stage after `step`: it is done again.

    TensorBoard's events are made anew from metrics.jsonl, since their writer
    loses what it holds back when the run is killed.
    """
    entries = files.read_jsonl(self._path)
    kept = [e for e in entries if e['stage'] != stage or e['step'] <= step]
    if len(kept) < len(entries):
      files.write_jsonl(self._path, kept)
    folder = self._tensorboard / stage
    shutil.rmtree(folder, ignore_errors=True)
    self._writers[stage] = tensorboardX.SummaryWriter(str(folder))
    for entry in kept:
      if entry['stage'] == stage:
        self._add_events(entry)

  def write(self, stage, step, metrics):
    """Adds one line of metrics, a dict of floats."""
    entry = {'stage': stage, 'step': step, **metrics}
    files.append_jsonl(self._path, entry)
    self._add_events(entry)

  def _add_events(self, entry):
    writer = self._writers[entry['stage']]
    for name in entry.keys() - {'stage', 'step'}:
      writer.add_scalar(name, entry[name], entry['step'])

  def close(self):
    for writer in self._writers.values():
      writer.close()


class Progress:
  """A live line: what, how far, how fast, how long still.

  On a terminal the line rewrites itself; elsewhere one is printed at most every
  ten seconds. Of several processes, 0 alone shows it.
  """

  def __init__(self, what, total, unit='updates'):
    self._what, self._total, self._unit = what, total, unit
    self._first = None  # time and count of the first line, compilation over
    self._printed = -float('inf')
    self._live = sys.stderr.isatty()

  def show(self, done, text=''):
    """Shows that `done` of the total are done; `text` says more."""
    if not processes.is_main():
      return
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
