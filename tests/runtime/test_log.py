"""metrics.jsonl, TensorBoard's events and the progress line."""

import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from diffusion_distillation.runtime import files, log


@pytest.fixture(autouse=True)
def clock(monkeypatch):
  """A clock that advances only by ten seconds before each line of a log."""
  seconds, write = [1000.0], log.RunLog.write

  def later(*args):
    seconds[0] += 10
    return write(*args)

  monkeypatch.setattr(log.time, 'time', lambda: seconds[0])
  monkeypatch.setattr(log.RunLog, 'write', later)


def lines(workdir):
  return files.read_jsonl(workdir / 'metrics.jsonl')


def events(workdir, stage):
  """Returns (time, step, values) of the events of a stage but the first."""
  (path,) = (workdir / 'tensorboard' / stage).glob('events*')
  data, found = path.read_bytes(), []
  while data:
    # Length, its checksum, event, its checksum.
    (size,) = struct.unpack('<Q', data[:8])
    found.append(Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return [(e.wall_time, e.step, e.summary.value) for e in found[1:]]


def scalars(workdir, stage):
  return [
    (time, step, {value.tag: value.simple_value for value in values})
    for time, step, values in events(workdir, stage)
    if values[0].HasField('simple_value')
  ]


def test_lines_have_a_time_and_a_speed(tmp_path):
  run = log.RunLog(tmp_path)
  run.rewind('teacher', 0)
  run.write('teacher', 2, {'loss': 1.0})
  run.write('teacher', 4, {'loss': 2.0})
  run.write('teacher', 4, {'frechet_distance': 3.0})
  run.write('teacher', 9, {'loss': 4.0})
  run.rewind('student', 0, ideal_seconds=lambda: 0.5)
  run.write('student', 1, {'loss': 5.0})
  assert run.write('student', 3, {'loss': 5.0})['mfu'] == pytest.approx(0.1)
  run.rewind('student', 3)
  run.close()
  assert run._ideal_seconds is None
  speeds = [line.get('updates_per_second') for line in lines(tmp_path)]
  # An evaluation has no speed, and its time is not that of training.
  assert speeds == [None, 0.2, None, 0.5, None, 0.2]
  assert [line.get('mfu') for line in lines(tmp_path)][:-1] == [None] * 5
  assert [line['time'] for line in lines(tmp_path)] == [
    1010.0,
    1020.0,
    1030.0,
    1040.0,
    1050.0,
    1060.0,
  ]
  assert log.without_times(lines(tmp_path)) == [
    {'stage': 'teacher', 'step': 2, 'loss': 1.0},
    {'stage': 'teacher', 'step': 4, 'loss': 2.0},
    {'stage': 'teacher', 'step': 4, 'frechet_distance': 3.0},
    {'stage': 'teacher', 'step': 9, 'loss': 4.0},
    {'stage': 'student', 'step': 1, 'loss': 5.0},
    {'stage': 'student', 'step': 3, 'loss': 5.0},
  ]


def test_resuming_forgets_what_is_done_again(tmp_path):
  run = log.RunLog(tmp_path)
  run.rewind('teacher', 0)
  run.write('teacher', 2, {'loss': 1.0})
  run.write('teacher', 2, {'frechet_distance': 2.0})
  run.write('student', 4, {'loss': 3.0})
  run.rewind('teacher', 2)
  run.close()
  assert log.without_times(lines(tmp_path)) == [
    {'stage': 'teacher', 'step': 2, 'loss': 1.0},
    {'stage': 'student', 'step': 4, 'loss': 3.0},
  ]


def test_events_keep_their_times_when_a_run_resumes(tmp_path):
  run = log.RunLog(tmp_path)
  run.rewind('teacher', 0)
  for step in (2, 4, 6):
    run.write('teacher', step, {'loss': step / 2})
  run.close()
  before = scalars(tmp_path, 'teacher')
  assert [(time, step) for time, step, _ in before] == [
    (line['time'], line['step']) for line in lines(tmp_path)
  ]
  assert before[1][2] == {
    'loss': 2.0,
    'updates_per_second': pytest.approx(0.2),
  }
  run = log.RunLog(tmp_path)
  run.rewind('teacher', 5)
  run.close()
  assert scalars(tmp_path, 'teacher') == before[:2]


def test_a_line_of_an_earlier_version_has_no_time(tmp_path):
  line = {'stage': 'teacher', 'step': 2, 'loss': 1.0}
  files.write_jsonl(tmp_path / 'metrics.jsonl', [line])
  run = log.RunLog(tmp_path)
  run.rewind('teacher', 2)
  run.close()
  assert [step for _, step, _ in scalars(tmp_path, 'teacher')] == [2]


def test_tensorboard_shows_settings_and_pictures(tmp_path):
  picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
  Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / 'grid.png')

  def pictures():
    found = [
      (time, step, value)
      for time, step, values in events(tmp_path, 'teacher')
      for value in values
      if value.HasField('image')
    ]
    return [
      (time, step, value.tag, (value.image.height, value.image.width))
      for time, step, value in found
    ]

  run = log.RunLog(tmp_path, {'train': {'batch_size': 8}})
  run.rewind('teacher', 0)
  run.image('teacher', 3, 'samples', tmp_path / 'grid.png')
  run.image('teacher', 6, 'samples', picture)
  run.close()
  (_, _, (text, *_)), *_ = events(tmp_path, 'teacher')
  assert '"batch_size": 8' in text.tensor.string_val[0].decode()
  before = pictures()
  assert [(step, *rest) for _, step, *rest in before] == [
    (3, 'samples', (4, 5)),
    (6, 'samples', (2, 3)),
  ]
  run.rewind('teacher', 6)  # the evaluation at 6 is made again
  run.close()
  assert pictures() == before[:1]


def test_progress_shows_speed_and_time_left(capsys, monkeypatch):
  clock = iter([0.0, 10.0, 20.0])
  monkeypatch.setattr('time.monotonic', lambda: next(clock))
  progress = log.Progress('teacher', 100)
  progress.show(10)
  progress.show(30, 'loss 0.1')
  line = capsys.readouterr().err.splitlines()[-1]
  # 20 updates in 10 s after the first line, before which they compile.
  assert line == 'teacher  30/100  loss 0.1  2 updates/s  0:00:35 left'


def test_durations_have_hours_minutes_and_seconds():
  assert [log.duration(s) for s in (0.4, 61, 7325)] == [
    '0:00:00',
    '0:01:01',
    '2:02:05',
  ]


def test_other_processes_write_nothing(tmp_path):
  public = {name for name in dir(log.RunLog) if not name.startswith('_')}
  assert public == {n for n in dir(log.NoLog) if not n.startswith('_')}
  run = log.NoLog()
  run.rewind('teacher', 0)
  run.write('teacher', 1, {'loss': 1.0})
  run.image('teacher', 1, 'samples', tmp_path / 'none.png')
  run.close()
