"""The run folder: one config, one process at a time."""

import errno
import json
import shlex
import subprocess
import sys

import pytest

from diffusion_distillation.runtime import run_folder
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import (
  check_run_folder,
  check_same,
  open_run_folder,
  read_run,
  write_config,
)
from tests.conftest import tiny_config

TEACHER = 'distillation.teacher_checkpoint_path'


DATA = {'images': 80, 'fingerprint': 'ab12'}


def opened(workdir, config=None, **kwargs):
  config = config or tiny_config()
  kwargs = {'create': True, **kwargs}
  with open_run_folder(workdir, config, **kwargs) as path:
    return path


def begun(workdir, config=None, data=DATA, checksum=None, **kwargs):
  """Opens a run folder as training does, and writes its config.json."""
  config = config or tiny_config()
  with open_run_folder(
    workdir, config, create=True, data=data, teacher_checksum=checksum
  ) as path:
    kwargs = {'rounds': [], 'teacher_checksum': checksum, **kwargs}
    write_config(path, config, data=data, **kwargs)


def changed(values):
  """Returns the tiny config with other values, dotted name -> value."""
  config = tiny_config()
  with config.unlocked():
    for name, value in values.items():
      *sections, key = name.split('.')
      section = config
      for part in sections:
        section = section[part]
      section[key] = value
  return config


def test_a_run_folder_says_what_the_run_is(tmp_path):
  assert read_run(tmp_path) is None
  rounds = [{'name': 'teacher', 'num_steps': (8, 4)}]
  begun(tmp_path, rounds=rounds, teacher='/t', checksum='abc')
  run = read_run(tmp_path)
  assert run['config']['seed'] == 0
  assert run['rounds'] == [{'name': 'teacher', 'num_steps': [8, 4]}]
  assert (run['teacher'], run['teacher_checksum']) == ('/t', 'abc')
  assert {'python', 'jax', 'numpy'} <= run['versions'].keys()
  assert run['command'] == shlex.join(sys.orig_argv)
  assert run['commit'] is None or run['commit'].removesuffix('-dirty').isalnum()
  assert run['started'].endswith('+00:00')
  assert run['data'] == DATA
  begun(tmp_path, changed({'eval.num_samples': 40}))
  later = read_run(tmp_path)
  assert later['started'] == run['started'] and later['rounds'] == []
  # What is known about the teacher stays the same.
  assert (later['teacher'], later['teacher_checksum']) == ('/t', 'abc')


def test_an_installed_package_has_no_commit(monkeypatch, tmp_path):
  monkeypatch.setattr(run_folder, '__file__', f'{tmp_path}/a/b/c.py')
  assert run_folder._commit() is None


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
    # Reading is allowed.
    assert opened(tmp_path, lock=False) == tmp_path
    other.kill()
  assert opened(tmp_path) == tmp_path


def test_the_lock_ends_with_the_context(tmp_path):
  with (
    open_run_folder(tmp_path, tiny_config(), create=True),
    pytest.raises(UserError, match='is in use by'),
  ):
    opened(tmp_path)
  assert opened(tmp_path) == tmp_path


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('seed', 1),
    ('train.learning_rate', 1.0),
    ('train.batch_size', 32),
    ('teacher.train.ema_decay', 0.5),
    ('model.args.ch', 16),
    ('distillation.start_num_steps', 8),
    ('dataset.args.class_conditional', False),
    (TEACHER, '/somewhere'),
  ],
)
def test_another_config_is_refused_by_name(tmp_path, key, value):
  begun(tmp_path)
  before = (tmp_path / 'config.json').read_text()
  with pytest.raises(UserError, match=rf'another config \({key}: .* there, '):
    opened(tmp_path, changed({key: value}))
  assert (tmp_path / 'config.json').read_text() == before


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('teacher.train.num_updates', 9),
    ('train.log_loss_every_steps', 5),
    ('train.checkpoint_every_secs', 1),
    ('teacher.train.eval_every_steps', 7),
    ('train.substeps', 7),
    ('train.accumulate', 2),
    ('model.args.remat', True),
    ('model.args.norm', 'fused'),
    ('distillation.end_num_steps', 2),
    ('distillation.steps_per_iter', 9),
    ('distillation.steps_per_iter', {'2': 9, '1': 8}),
    ('compilation_cache_dir', None),
    ('dataset.args.data_dir', '/elsewhere'),
    ('eval.num_samples', 40),
    ('eval.samplers', ('heun',)),
  ],
)
def test_lengths_intervals_and_places_may_change(tmp_path, key, value):
  begun(tmp_path)
  begun(tmp_path, changed({key: value}))
  got = read_run(tmp_path)['config']
  for part in key.split('.'):
    got = got[part]
  assert got == (list(value) if isinstance(value, tuple) else value)


def test_a_key_may_change_in_its_own_section_only(tmp_path):
  begun(tmp_path, changed({'dataset.args.remat': False}))
  with pytest.raises(UserError, match=r'dataset\.args\.remat: False there'):
    opened(tmp_path, changed({'dataset.args.remat': True}))


def with_methods(**methods):
  return changed({'distillation.methods': methods})


def test_methods_may_get_longer_more_and_fewer(tmp_path):
  def way(objective='progressive', **keys):
    return {'distillation': {'objective': objective, **keys}}

  begun(tmp_path, with_methods(a=way(), b=way()))
  begun(tmp_path, with_methods(a=way(steps_per_iter=9), c=way()))
  begun(tmp_path, with_methods(a=way(steps_per_iter=8)))
  key = r'distillation\.methods\.a\.'
  for other, name in (
    (way('tract'), r'distillation\.objective: progressive there, tract here'),
    (way() | {'train': {'ema_decay': 0.5}}, r'train\.ema_decay: None there'),
  ):
    with pytest.raises(UserError, match=key + name):
      opened(tmp_path, with_methods(a=other))


def test_images_may_move(tmp_path, capsys):
  for path in ('/here/images', '/here/images/', '/there/images'):
    begun(tmp_path, changed({'dataset.args.path': path}))
  assert not capsys.readouterr().err


def test_other_images_are_refused_or_give_a_warning(tmp_path, capsys):
  begun(tmp_path)
  before = (tmp_path / 'config.json').read_text()
  with pytest.raises(UserError, match=r'80 training images, and .* 81 now'):
    begun(tmp_path, data={**DATA, 'images': 81})
  assert (tmp_path / 'config.json').read_text() == before
  for warnings in (1, 0):  # the second time they are known
    begun(tmp_path, data={**DATA, 'fingerprint': 'cd34'})
    said = capsys.readouterr().err
    assert said.count('warning: the files of the training images') == warnings
  # Measuring and reporting need no training images.
  assert opened(tmp_path, create=False) == tmp_path


def test_a_teacher_may_move_but_not_become_another(tmp_path):
  config = changed({TEACHER: '/here'})
  begun(tmp_path, config, teacher='/here/8', checksum='abc')
  moved = changed({TEACHER: '/there'})
  begun(tmp_path, moved, teacher='/there/8', checksum='abc')
  assert read_run(tmp_path)['teacher'] == '/there/8'
  with pytest.raises(UserError, match='students of another teacher') as caught:
    begun(tmp_path, config, teacher='/here/9', checksum='def')
  assert '\n' not in str(caught.value)
  # A finished run is read without its teacher.
  opened(tmp_path, config, create=False)
  with pytest.raises(UserError, match=f'{TEACHER}: /there there, None here'):
    opened(tmp_path, tiny_config(), create=False)


def test_a_run_of_a_version_with_fewer_keys_resumes(tmp_path):
  begun(tmp_path)
  path = tmp_path / 'config.json'
  run = json.loads(path.read_text())
  del run['config']['compilation_cache_dir']
  path.write_text(json.dumps({'config': run['config']}))
  begun(tmp_path)
  assert read_run(tmp_path)['started']


def test_without_create_there_must_be_a_run(tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    opened(tmp_path / 'none', create=False)
  assert not (tmp_path / 'none').exists()


def test_other_files_are_left_alone(tmp_path):
  (tmp_path / 'thesis.tex').touch()
  with pytest.raises(UserError, match='is not empty and holds no run'):
    opened(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_what_a_kill_at_the_beginning_leaves_does_not_matter(tmp_path):
  (tmp_path / 'lock').touch()
  (tmp_path / 'config.json.new').write_text('{')
  assert opened(tmp_path) == tmp_path


def test_a_file_cannot_be_a_run_folder(tmp_path):
  (tmp_path / 'file').touch()
  for function in (opened, lambda path: check_run_folder(path, tiny_config())):
    with pytest.raises(UserError, match=r'^--workdir=.*file is not a folder'):
      function(tmp_path / 'file')


def test_a_run_that_begins_at_the_same_time_is_noticed(tmp_path, monkeypatch):
  """If two runs of different configs begin, the later one is refused."""
  locked = run_folder._locked

  def late(workdir):
    monkeypatch.setattr(run_folder, '_locked', locked)
    begun(workdir, changed({'seed': 1}))
    return locked(workdir)

  monkeypatch.setattr(run_folder, '_locked', late)
  with pytest.raises(UserError, match='another config'):
    opened(tmp_path)


def test_a_file_system_without_locks_gives_a_notice(
  tmp_path, monkeypatch, capsys
):
  def none(file, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(run_folder.fcntl, 'flock', none)
  assert opened(tmp_path) == tmp_path
  said = capsys.readouterr().err
  assert said.startswith('notice: ') and 'No locks available' in said


def test_a_check_does_not_create_a_run(tmp_path):
  check_run_folder(tmp_path / 'new', tiny_config())
  assert not (tmp_path / 'new').exists()
  begun(tmp_path)
  check_run_folder(tmp_path, tiny_config())
  with pytest.raises(UserError, match='another config'):
    check_run_folder(tmp_path, changed({'seed': 1}))
  with (
    open_run_folder(tmp_path, tiny_config()),
    pytest.raises(UserError, match='is in use by'),
  ):
    check_run_folder(tmp_path, tiny_config())


def test_processes_may_differ_in_places_alone():
  theirs = json.loads(json.dumps(tiny_config().to_dict()))
  check_same(theirs, changed({'dataset.args.data_dir': '/here'}))
  check_same(theirs, changed({'eval.cache_dir': '/here'}))
  with pytest.raises(UserError, match=r'\(train\.accumulate: 1 there, 2 here'):
    check_same(theirs, changed({'train.accumulate': 2}))
  with pytest.raises(UserError, match=r'methods\.a\.'):
    check_same(theirs, with_methods(a={'train': {'ema_decay': 0.5}}))


def test_why_a_training_failed_is_remembered(tmp_path):
  assert run_folder.read_failure(tmp_path) is None
  run_folder.record_failure(tmp_path, UserError('loss nan'))
  assert run_folder.read_failure(tmp_path) == 'loss nan'
  (tmp_path / 'failure.txt').write_bytes(b'loss \xff\n')
  assert run_folder.read_failure(tmp_path) == 'loss \ufffd'
  run_folder.forget_failure(tmp_path)
  assert run_folder.read_failure(tmp_path) is None
  run_folder.forget_failure(tmp_path)


@pytest.mark.parametrize(
  'text',
  [
    '{',
    '[]',
    '{}',
    '{"config": 3}',
    '{"config": {}, "teacher": 5}',
    '{"config": {}, "teacher": ["a"]}',
  ],
)
def test_a_damaged_config_file_gets_one_line(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  for ask in (lambda: opened(tmp_path), lambda: read_run(tmp_path)):
    with pytest.raises(UserError, match=r'cannot read .*config\.json') as error:
      ask()
    assert '\n' not in str(error.value)
