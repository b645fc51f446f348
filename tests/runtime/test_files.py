"""Files are whole, and errors name their path."""

import errno
import os

import numpy as np
import pytest

from diffusion_distillation.runtime import devices, files
from diffusion_distillation.runtime.errors import DamagedError, UserError


@pytest.fixture
def full_disk(monkeypatch):
  """Makes every write fail at its end, as on a full disk."""

  def fsync(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', fsync)


@pytest.mark.parametrize(
  'write',
  [
    lambda path: files.write_text(path, 'new'),
    lambda path: files.write_npz(path, {'a': np.arange(3)}),
    lambda path: files.write_jsonl(path, [{}]),
  ],
)
def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk, write):
  path = tmp_path / 'file'
  path.write_text('old')
  with pytest.raises(UserError, match=r'cannot write .*file: No space left on'):
    write(path)
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
  path = tmp_path / 'pipe'  # as /dev/null, which root could replace
  os.mkfifo(path)
  with pytest.raises(UserError, match=r'cannot write .*pipe: it is not a reg'):
    files.write_text(path, 'new')
  assert path.is_fifo()


def test_a_line_that_does_not_fit_names_the_file(tmp_path, full_disk):
  with pytest.raises(UserError, match=r'metrics\.jsonl: No space left on'):
    files.append_jsonl(tmp_path / 'metrics.jsonl', {})


def test_a_folder_that_is_gone_gets_one_line(tmp_path):
  with pytest.raises(UserError, match='none/file: No such file or') as caught:
    files.write_text(tmp_path / 'none' / 'file', '')
  assert '\n' not in str(caught.value)


def test_arrays_are_read_as_they_were_written(tmp_path):
  arrays = {'a': np.arange(3), 'b': np.float32(0.1)}
  files.write_npz(tmp_path / 'file.npz', arrays)
  with np.load(tmp_path / 'file.npz') as file:
    assert {k: v.tolist() for k, v in file.items()} == {
      k: v.tolist() for k, v in arrays.items()
    }


def test_an_unfinished_line_is_dropped(tmp_path):
  path = tmp_path / 'lines.jsonl'
  assert files.read_jsonl(path) == []
  files.append_jsonl(path, {'a': 1})
  with path.open('a') as file:
    file.write('{"a": ')
  assert files.read_jsonl(path) == [{'a': 1}]
  files.append_jsonl(path, {'a': 2})
  assert files.read_jsonl(path, {'a': int}) == [{'a': 1}, {'a': 2}]


@pytest.mark.parametrize(
  'line', ['{', '[]', '3', '{"a": "b"}', '{}', '\xff', '[' * 100_000]
)
def test_the_number_of_a_damaged_line_is_named(tmp_path, line):
  path = tmp_path / 'lines.jsonl'
  path.write_bytes(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n'.encode('latin-1'))
  with pytest.raises(UserError, match='is damaged: line 2'):
    files.read_jsonl(path, {'a': int})


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    (PermissionError(errno.EACCES, 'Permission denied', 'x'), 'Permission de'),
    (Exception('\n  Encountered an error  \n  in line 3'), 'Encountered an e'),
    (KeyError(), 'KeyError'),
    (UserError('of another network'), 'of another network'),
  ],
)
def test_what_a_reader_raises_gets_one_line(error, message):
  with (
    pytest.raises(UserError, match=message) as caught,
    files.reading('file'),
  ):
    raise error
  assert '\n' not in str(caught.value)
  # Only a checksum shows that a file is damaged.
  assert not isinstance(caught.value, DamagedError)


def test_a_user_error_is_not_a_value_error():
  assert not issubclass(UserError, ValueError)


def test_a_cache_folder_is_made(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  folder = files.cache_folder('~/a/b', 'eval.cache_dir')
  assert folder == tmp_path / 'a' / 'b' and folder.is_dir()
  assert files.cache_folder(None, 'eval.cache_dir') is None
  assert files.cache_folder('', 'eval.cache_dir') is None
  assert capsys.readouterr().err == ''


def no_home(path):
  raise RuntimeError('Could not determine home directory.')


@pytest.mark.parametrize('what', ['no home', 'not writable', 'a file'])
def test_without_a_cache_folder_there_is_a_notice(
  tmp_path, monkeypatch, capsys, what
):
  if what == 'no home':
    monkeypatch.setattr(files.pathlib.Path, 'expanduser', no_home)
  elif what == 'not writable':
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
  else:
    (tmp_path / 'cache').write_text('')
  assert files.cache_folder(tmp_path / 'cache', 'eval.cache_dir') is None
  said = capsys.readouterr().err
  assert said.startswith('notice: ') and said.count('\n') == 1
  assert f'eval.cache_dir={tmp_path}/cache' in said


def test_compiled_programs_are_kept_where_that_is_possible(
  tmp_path, monkeypatch, capsys
):
  config, changes = devices.jax.config, {}
  monkeypatch.setattr(config, 'update', changes.__setitem__)
  devices.use_compilation_cache(tmp_path)  # the tests have a cache already
  assert not changes
  with monkeypatch.context() as patched:
    patched.setattr(type(config), 'jax_compilation_cache_dir', None)
    devices.use_compilation_cache(tmp_path)
    assert changes.pop('jax_compilation_cache_dir') == str(tmp_path)
    changes.clear()
    patched.setattr(files.pathlib.Path, 'expanduser', no_home)
    devices.use_compilation_cache('~/cache')
  assert not changes
  assert 'compilation_cache_dir=~/cache' in capsys.readouterr().err
