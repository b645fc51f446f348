"""The log of a run: metrics.jsonl, TensorBoard events, a progress line."""

import contextlib
import io
import json
import pathlib
import sys
import textwrap
import time

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from diffusion_distillation.runtime import files, processes

_TIMES = ('time', 'updates_per_second', 'mfu')


class RunLog:
  """Writes the metrics of a run to metrics.jsonl and to TensorBoard.

  A line of metrics.jsonl has the keys 'stage' (name of a training), 'step'
  (updates made), 'time' (seconds since the epoch), the metrics, and since the
  previous line 'updates_per_second' and 'mfu', the share of the devices' FLOP/s
  that the updates use (MFU). The first line of a process has no speed, nor does
  a line of an evaluation, which has no key 'loss'.

  tensorboard/STAGE holds the same metrics as events, the settings of the run as
  text, and pictures of samples.
  """

  def __init__(self, workdir, settings=None):
    """Opens the log; call `rewind` before the first line of each training.

    Args:
      workdir: the run folder.
      settings: JSON values that TensorBoard shows as text, or None.
    """
    workdir = pathlib.Path(workdir)
    self._path = workdir / 'metrics.jsonl'
    self._tensorboard = workdir / 'tensorboard'
    self._settings = settings
    self._events = None  # file of events of the current stage
    self._last = None  # step and time of its last line in this process
    self._ideal_seconds = None

  def rewind(self, stage, step, ideal_seconds=None):
    """Begins or resumes a training, and removes its later lines.

    Updates after `step` are made again, and so is an evaluation at `step`
    itself, which comes after the checkpoint. TensorBoard's events are written
    again, with their original times.

    Args:
      stage: name of the training.
      step: updates made.
      ideal_seconds: () -> what an update would take if the devices did nothing
        but matrix products, called when it is needed; None leaves 'mfu' out.

    Raises:
      UserError: the log is damaged or cannot be written.
    """
    self._ideal_seconds = ideal_seconds
    entries = files.read_jsonl(self._path, {'stage': str, 'step': int})
    kept = [e for e in entries if e['stage'] != stage or _is_done(e, step)]
    if len(kept) < len(entries):
      files.write_jsonl(self._path, kept)
    self._last = None
    folder = self._tensorboard / stage
    with files.writing(folder):
      self.close()
      folder.mkdir(parents=True, exist_ok=True)
      for path in folder.iterdir():
        if path.suffix != '.png' or _name_and_step(path)[1] >= step:
          path.unlink()
      # SummaryWriter would write in its own thread, where an error would hang
      # the run.
      self._events = EventsWriter(str(folder / 'events'))
    if self._settings is not None:
      text = textwrap.indent(json.dumps(self._settings, indent=2), '    ')
      self._add(summary.text('settings', text), 0, time.time())
    for entry in kept:
      if entry['stage'] == stage:
        self._add_scalars(entry)
    for path in sorted(folder.glob('*.png')):
      self._add_image(path)

  def write(self, stage, step, metrics):
    """Writes a line of metrics of the current training, and returns it.

    Args:
      stage: name of the training.
      step: updates made.
      metrics: mapping from names to floats.

    Raises:
      UserError: the log cannot be written.
    """
    now = time.time()
    entry = {'stage': stage, 'step': step, 'time': now, **metrics}
    if self._last is not None and 'loss' in metrics:
      last_step, last = self._last
      # There is no speed if the clock was set back.
      if now > last:
        speed = entry['updates_per_second'] = (step - last_step) / (now - last)
        if self._ideal_seconds is not None:
          entry['mfu'] = speed * self._ideal_seconds()
    self._last = step, now
    files.append_jsonl(self._path, entry)
    self._add_scalars(entry)
    return entry

  def image(self, stage, step, name, picture):
    """Adds a picture of the current training to TensorBoard.

    Args:
      stage: name of the training.
      step: updates made.
      name: name of what it shows, such as 'samples'.
      picture: path of a PNG, or a uint8 array (H, W), (H, W, 1) or (H, W, 3).

    Raises:
      UserError: the picture cannot be written.
    """
    if isinstance(picture, np.ndarray):
      if picture.shape[2:] == (1,):
        picture = picture[..., 0]
      png = io.BytesIO()
      Image.fromarray(picture).save(png, 'PNG')
      data = png.getvalue()
    else:
      data = pathlib.Path(picture).read_bytes()
    path = self._tensorboard / stage / f'{name}_{step:09}.png'
    files.write_bytes(path, data)
    self._add_image(path)

  def close(self):
    """Closes the file of events."""
    events, self._events = self._events, None
    if events is not None:
      events.close()

  def _add_scalars(self, entry):
    values = Summary()
    for name in sorted(entry.keys() - {'stage', 'step', 'time'}):
      values.MergeFrom(summary.scalar(name, entry[name]))
    # Lines that earlier versions wrote have no time.
    self._add(values, entry['step'], entry.get('time', time.time()))

  def _add_image(self, path):
    name, step = _name_and_step(path)
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
      width, height = image.size
    image = Summary.Image(width=width, height=height, encoded_image_string=data)
    values = Summary(value=[Summary.Value(tag=name, image=image)])
    self._add(values, step, path.stat().st_mtime)

  def _add(self, values, step, moment):
    event = Event(step=step, wall_time=moment)
    event.summary.CopyFrom(values)
    with files.writing(self._tensorboard):
      self._events.write_event(event)
      self._events.flush()


class NoLog:
  """Stands in for a RunLog in processes other than 0."""

  def rewind(self, stage, step, ideal_seconds=None):
    """Does nothing."""

  def write(self, stage, step, metrics):
    """Writes nothing; returns an empty line."""
    return {}

  def image(self, stage, step, name, picture):
    """Does nothing."""

  def close(self):
    """Does nothing."""


def without_times(entries):
  """Returns lines of metrics.jsonl without what depends on the clock.

  The rest is the same, to the last bit, however often a run was interrupted.

  Args:
    entries: the lines, as `files.read_jsonl` returns them.
  """
  return [
    {key: entry[key] for key in entry if key not in _TIMES} for entry in entries
  ]


def _is_done(entry, step):
  """Returns whether a run that resumes at `step` keeps a line."""
  return entry['step'] < step or (entry['step'] == step and 'loss' in entry)


def _name_and_step(path):
  """Returns the name and the step of a picture, from its file name."""
  name, _, step = path.stem.rpartition('_')
  return name, int(step)


class Progress:
  """A progress line on stderr: the task, its progress, speed and time left.

  On a terminal the line is rewritten in place; elsewhere a new one is printed
  every ten seconds at most. If there are several processes, only process 0
  prints.
  """

  def __init__(self, what, total, unit='updates'):
    self._what, self._total, self._unit = what, total, unit
    self._first = None  # time and count of the first line, after compilation
    self._printed = -float('inf')
    self._live = sys.stderr.isatty()

  def show(self, done, text=''):
    """Shows that `done` of the total are done, followed by a text."""
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
    # Ctrl-C also ends the process that stderr is piped into, while this process
    # is still saving.
    with contextlib.suppress(BrokenPipeError):
      print(f'{start}{line}', end=end, file=sys.stderr, flush=True)

  def _speed(self, now, done):
    """Returns speed and time left, or '' on the first line."""
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
