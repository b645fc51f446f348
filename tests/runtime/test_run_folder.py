"""The run folder: one config's, and one process's at a time."""

import errno
import json
import subprocess
import sys

import pytest

from diffusion_distillation.runtime import failure, run_folder
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import (
  check_run_folder,
  open_run_folder,
)
from tests.conftest import tiny_config


def opened(workdir, config=None, **kwargs):
  config = config or tiny_config()
  kwargs = {'create': True, **kwargs}
  with open_run_folder(workdir, config, **kwargs) as path:
    return path


def changed(**keys):
  """Returns the tiny config with other values, by dotted names (__ for .)."""
  config = tiny_config()
  for name, value in keys.items():
    *sections, key = name.split('__')
    holder = config
    for section in sections:
      holder = holder[section]
    holder[key] = value
  return config


def test_a_second_process_is_refused_at_once(tmp_path):
  code = f"""
import sys
from diffusion_distillation.runtime.run_folder import open_run_folder
from tests.conftest import tiny_config
with open_run_folder({str(tmp_path)!r}, tiny_config(), create=True):
  print('open', flush=True)
  sys.stdin.read()
"""
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == 'open\n'
    with pytest.raises(UserError, match=rf'use by process {other.pid} on '):
      opened(tmp_path)
    # Reading does no harm.
    assert opened(tmp_path, create=False, lock=False) == tmp_path
    other.kill()
  assert opened(tmp_path) == tmp_path


def test_the_lock_ends_with_the_block(tmp_path):
  with (
    open_run_folder(tmp_path, tiny_config(), create=True),
    pytest.raises(UserError, match='is in use by'),
  ):
    opened(tmp_path)
  assert opened(tmp_path) == tmp_path


@pytest.mark.parametrize(
  'keys',
  [
    {'seed': 1},
    {'train__learning_rate': 1.0},
    {'train__batch_size': 32},
    {'teacher__train__ema_decay': 0.5},
    {'model__args__ch': 16},
    {'distillation__start_num_steps': 8},
    {'dataset__args__class_conditional': False},
  ],
)
def test_what_makes_another_run_is_refused_by_name(tmp_path, keys):
  opened(tmp_path)
  before = (tmp_path / 'config.json').read_text()
  name = '.'.join(next(iter(keys)).split('__'))
  with pytest.raises(UserError, match=rf'another config \({name}: .* there, '):
    opened(tmp_path, changed(**keys))
  assert (tmp_path / 'config.json').read_text() == before


@pytest.mark.parametrize(
  'keys',
  [
    {'teacher__train__num_updates': 9},
    {'train__log_loss_every_steps': 5},
    {'train__checkpoint_every_secs': 1},
    {'teacher__train__eval_every_steps': 7},
    {'distillation__end_num_steps': 2},
    {'distillation__steps_per_iter': 9},
    {'compilation_cache_dir': None},
    {'eval__num_samples': 40},
  ],
)
def test_lengths_and_intervals_may_change(tmp_path, keys):
  opened(tmp_path, teacher='/somewhere/8')
  opened(tmp_path, changed(**keys), teacher='/elsewhere/9')
  run = json.loads((tmp_path / 'config.json').read_text())
  value = run['config']
  for part in next(iter(keys)).split('__'):
    value = value[part]
  assert value == next(iter(keys.values()))
  # A ladder has one teacher.
  assert run['teacher'] == '/somewhere/8'


def test_a_run_of_a_version_with_fewer_keys_goes_on(tmp_path):
  opened(tmp_path)
  path = tmp_path / 'config.json'
  run = json.loads(path.read_text())
  del run['config']['compilation_cache_dir']
  path.write_text(json.dumps(run))
  assert opened(tmp_path) == tmp_path


def test_without_create_there_must_be_a_run(tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    opened(tmp_path / 'none', create=False)
  assert not (tmp_path / 'none').exists()


def test_what_began_before_the_lock_was_had_is_seen(tmp_path, monkeypatch):
  """Two new runs of different configs at once: the later one is refused."""
  locked = run_folder._locked

  def late(workdir):
    monkeypatch.setattr(run_folder, '_locked', locked)
    opened(workdir, changed(seed=1))
    return locked(workdir)

  monkeypatch.setattr(run_folder, '_locked', late)
  with pytest.raises(UserError, match='another config'):
    opened(tmp_path)


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
  def none(file, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(run_folder.fcntl, 'flock', none)
  assert opened(tmp_path) == tmp_path
  said = capsys.readouterr().err
  assert said.startswith('notice: ') and 'No locks available' in said


def test_a_run_is_looked_at_without_making_one(tmp_path):
  check_run_folder(tmp_path / 'new', tiny_config())
  assert not (tmp_path / 'new').exists()
  opened(tmp_path)
  check_run_folder(tmp_path, tiny_config())
  with pytest.raises(UserError, match='another config'):
    check_run_folder(tmp_path, changed(seed=1))
  with (
    open_run_folder(tmp_path, tiny_config()),
    pytest.raises(UserError, match='is in use by'),
  ):
    check_run_folder(tmp_path, tiny_config())


def test_why_a_run_failed_is_read_whatever_it_says(tmp_path):
  (tmp_path / 'failure.txt').write_bytes(b'loss \xff\n')
  assert failure.read(tmp_path) == 'loss \ufffd'


@pytest.mark.parametrize('teacher', [5, ['a'], {}])
def test_a_config_file_that_is_damaged_is_told_in_one_line(tmp_path, teacher):
  opened(tmp_path)
  path = tmp_path / 'config.json'
  run = json.loads(path.read_text())
  path.write_text(json.dumps({**run, 'teacher': teacher}))
  for ask in (
    lambda: opened(tmp_path),
    lambda: run_folder.teacher_of(tmp_path),
  ):
    with pytest.raises(
      UserError, match=r'config\.json cannot be read'
    ) as caught:
      ask()
    assert '\n' not in str(caught.value)
