"""What a run tells: a progress line, metrics.jsonl and TensorBoard events."""

import contextlib
import pathlib
import shutil
import sys
import time

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from diffusion_distillation.runtime import files, processes


class RunLog:
  """Writes the metrics of a run to its folder."""

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'metrics.jsonl'
    self._tensorboard = pathlib.Path(workdir) / 'tensorboard'
    self._events = None  # of the stage that is trained

  def rewind(self, stage, step):
    """Forgets what was logged of a stage after `step`: it is done again.

    So are the figures of an evaluation at `step` itself, which follows the
    checkpoint. TensorBoard's events are made anew from metrics.jsonl.
    """
    entries = files.read_jsonl(self._path, {'stage': str, 'step': int})
    kept = [e for e in entries if e['stage'] != stage or _is_done(e, step)]
    if len(kept) < len(entries):
      files.write_jsonl(self._path, kept)
    folder = self._tensorboard / stage
    with files.writing(folder):
      self.close()
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
      # Not SummaryWriter, whose thread fails alone, and then hangs the run.
      self._events = EventsWriter(str(folder / 'events'))
    for entry in kept:
      if entry['stage'] == stage:
        self._add_events(entry)

  def write(self, stage, step, metrics):
    """Adds one line of metrics, a dict of floats."""
    entry = {'stage': stage, 'step': step, **metrics}
    files.append_jsonl(self._path, entry)
    self._add_events(entry)

  def _add_events(self, entry):
    with files.writing(self._tensorboard):
      for name in sorted(entry.keys() - {'stage', 'step'}):
        event = Event(step=entry['step'], wall_time=time.time())
        event.summary.CopyFrom(summary.scalar(name, entry[name]))
        self._events.write_event(event)
      self._events.flush()

  def close(self):
    """Closes the file of events."""
    events, self._events = self._events, None
    if events is not None:
      events.close()


def _is_done(entry, step):
  return entry['step'] < step or (entry['step'] == step and 'loss' in entry)


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
    # Ctrl-C ends a pipe that is read no more before the run, which goes on.
    with contextlib.suppress(BrokenPipeError):
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
