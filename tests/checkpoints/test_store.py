import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from diffusion_distillation.checkpoints import store
from diffusion_distillation.checkpoints.store import CheckpointFolder, Saver
from diffusion_distillation.runtime.errors import DamagedError, UserError
from tests.checkpoints.toy import (
  CARD,
  assert_same,
  card_at,
  make_state,
  make_weights,
)

PROGRESS = {'seconds': 1.5, 'unlogged': {'loss': [0.25]}}


def save(folder, *updates):
  checkpoints = CheckpointFolder(folder)
  for step in updates:
    checkpoints.save(make_state(step), card_at(step), PROGRESS)
  return checkpoints


def restored_step(folder):
  state, card, _ = CheckpointFolder(folder).restore(make_state(0), 9)
  assert int(state.step) == card.updates
  assert_same(state, make_state(card.updates))
  return card.updates


@pytest.mark.parametrize('ema_decay', [0.0, 0.9])
def test_a_state_is_restored_as_it_was(tmp_path, ema_decay):
  state = make_state(3, ema_decay)
  folder = CheckpointFolder(tmp_path / 'new' / 'folder')
  folder.save(state, card_at(3), PROGRESS)
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state
  )
  restored, card, progress = folder.restore(shapes, 9)
  assert_same(restored, state)
  assert (card, progress) == (card_at(3), PROGRESS)


def test_an_empty_folder_restores_nothing(tmp_path):
  for path in (tmp_path, tmp_path / 'nowhere'):
    folder = CheckpointFolder(path)
    assert folder.restore(make_state(0), 9) is None
    assert folder.newest() is None and folder.newest_card() is None


def test_the_newest_two_are_kept(tmp_path):
  folder = save(tmp_path, 1, 2, 5)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['2', '5']
  assert folder.newest() == tmp_path / '5'
  assert folder.newest_card() == card_at(5)


def test_a_step_is_not_overwritten(tmp_path):
  folder = save(tmp_path, 5)
  with pytest.raises(UserError, match='5 exists already'):
    folder.save(make_state(5), card_at(5), {})
  assert store.read_progress(tmp_path / '5') == PROGRESS


def test_a_finished_training_needs_its_weights_only(tmp_path):
  save(tmp_path, 9)
  shutil.rmtree(tmp_path / '9' / 'training')
  restored, _, _ = CheckpointFolder(tmp_path).restore(make_state(0), 9)
  assert restored.opt_state is None and restored.params is None
  assert_same(restored.weights, make_state(9).ema_params)


def test_foreign_files_stay_and_unfinished_folders_go(tmp_path):
  save(tmp_path, 3)
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / '7').write_text('not a folder')
  (tmp_path / '9.unfinished' / 'weights').mkdir(parents=True)
  # Another training may still be saving when its folder is listed.
  CheckpointFolder(tmp_path).newest_card()
  assert (tmp_path / '9.unfinished').exists()
  assert restored_step(tmp_path) == 3
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'3', 'notes.txt', '7'}


def test_another_network_is_not_treated_as_damage(tmp_path):
  save(tmp_path, 3)
  other = make_state(0)
  other.ema_params['hidden_0']['bias'] = np.zeros(7, np.float32)
  with pytest.raises(
    UserError, match=r'does not fit .*: hidden_0/bias is \(32,\) in the .*\(7,'
  ):
    CheckpointFolder(tmp_path).restore(other, 9)
  assert (tmp_path / '3').is_dir()


def test_the_checksums_are_those_of_sha256sum(tmp_path):
  save(tmp_path, 3)
  checked = subprocess.run(
    ['sha256sum', '--check', '--strict', 'SHA256SUMS'],
    cwd=tmp_path / '3',
    capture_output=True,
    text=True,
    check=True,
  )
  inside = {p for p in (tmp_path / '3').rglob('*') if p.is_file()}
  assert len(checked.stdout.splitlines()) == len(inside) - 1


# Damage


def largest(folder):
  """Returns the largest file below a folder: that of the arrays."""
  inside = [path for path in folder.rglob('*') if path.is_file()]
  return max(inside, key=lambda path: path.stat().st_size)


def flip_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
  shutil.rmtree(path)
  path.mkdir()


def rewrite(path, **changes):
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = {
  'bit in weights': lambda path: flip_bit(largest(path / 'weights')),
  'bit in training': lambda path: flip_bit(largest(path / 'training')),
  'bit in metadata': lambda path: flip_bit(path / 'weights' / '_METADATA'),
  'bit in card': lambda path: flip_bit(path / 'card.json'),
  'bit in progress': lambda path: flip_bit(path / 'progress.json'),
  'bit in checksums': lambda path: flip_bit(path / 'SHA256SUMS'),
  'weights truncated': lambda path: truncate(largest(path / 'weights')),
  'card truncated': lambda path: truncate(path / 'card.json'),
  'checksums truncated': lambda path: truncate(path / 'SHA256SUMS'),
  'weights of another step': lambda path: shutil.copytree(
    path.with_name('3') / 'weights', path / 'weights', dirs_exist_ok=True
  ),
  'another sampler': lambda path: rewrite(path / 'card.json', sampler='heun'),
  'other seconds': lambda path: rewrite(path / 'progress.json', seconds=2.5),
  'a copy of another step': lambda path: (
    shutil.rmtree(path),
    shutil.copytree(path.with_name('3'), path),
  ),
  'empty': empty,
  'no weights': lambda path: shutil.rmtree(path / 'weights'),
  'no training': lambda path: shutil.rmtree(path / 'training'),
  'no card': lambda path: (path / 'card.json').unlink(),
  'no progress': lambda path: (path / 'progress.json').unlink(),
  'no checksums': lambda path: (path / 'SHA256SUMS').unlink(),
  'no arrays': lambda path: largest(path / 'weights').unlink(),
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  save(folder, 3, 5)
  return folder


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_set_aside(tmp_path, saved, capsys, damage):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  damage(tmp_path / '5')
  assert restored_step(tmp_path) == 3
  warning = capsys.readouterr().err
  assert warning.startswith('warning: ') and warning.count('\n') == 1
  assert f'{tmp_path / "5"} is damaged' in warning and '5.damaged' in warning
  assert (tmp_path / '5.damaged').is_dir()
  save(tmp_path, 5)
  assert restored_step(tmp_path) == 5


def test_two_damaged_checkpoints_of_a_step_are_both_kept(tmp_path, saved):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  (tmp_path / '5.damaged').mkdir()
  empty(tmp_path / '5')
  assert restored_step(tmp_path) == 3
  assert (tmp_path / '5.damaged.damaged').is_dir()


def test_if_all_are_damaged_nothing_is_touched(tmp_path, saved):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  for step in ('3', '5'):
    flip_bit(largest(tmp_path / step / 'weights'))
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(UserError, match=r'no checkpoint in .* is intact') as e:
    CheckpointFolder(tmp_path).restore(make_state(0), 9)
  assert '\n' not in str(e.value) and not isinstance(e.value, DamagedError)
  assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('number', [errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize('name', ['SHA256SUMS', 'card.json', '_METADATA'])
def test_a_read_error_is_not_treated_as_damage(
  tmp_path, saved, monkeypatch, number, name
):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  before, open_file = sorted(tmp_path.rglob('*')), pathlib.Path.open

  def fail(path, *args, **kwargs):
    if path.name == name:
      raise OSError(number, os.strerror(number))
    return open_file(path, *args, **kwargs)

  monkeypatch.setattr(pathlib.Path, 'open', fail)
  with pytest.raises(
    UserError, match=f'cannot read .*5: {os.strerror(number)}'
  ):
    CheckpointFolder(tmp_path).restore(make_state(0), 9)
  assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
  'error', [RuntimeError("can't start new thread"), MemoryError()]
)
def test_a_parse_error_of_intact_files_is_not_treated_as_damage(
  tmp_path, saved, monkeypatch, error
):
  def fail(*args, **kwargs):
    raise error

  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  monkeypatch.setattr(store.ocp.Checkpointer, 'restore', fail)
  with pytest.raises(UserError, match=r'cannot read .*5') as e:
    CheckpointFolder(tmp_path).restore(make_state(0), 9)
  assert not isinstance(e.value, DamagedError) and (tmp_path / '5').is_dir()


def test_a_folder_that_cannot_be_listed_is_not_treated_as_empty(
  tmp_path, monkeypatch
):
  def fail(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  assert store.steps(tmp_path / 'nowhere') == []
  monkeypatch.setattr(os, 'scandir', fail)
  with pytest.raises(UserError, match=r'cannot read .*: Input/output error'):
    CheckpointFolder(tmp_path).restore(make_state(0), 9)


# This process may write at most 9,000 bytes per file. Some of the arrays that
# orbax writes at the same time then fail, as on a full disk.
FULL = """
import resource, signal, sys
import jax
from tests.checkpoints.toy import card_at, make_state
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.runtime.errors import UserError

assert jax.device_count() == 1
folder = CheckpointFolder(sys.argv[1])
folder.save(make_state(3), card_at(3), {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
state = make_state(5)
many = {f'layer_{i}': state.params for i in range(30)}
try:
  folder.save(state.replace(params=many), card_at(5), {})
except UserError as error:
  print(error)
"""


def test_a_full_disk_is_reported_in_one_line(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', FULL, tmp_path],
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stderr == ''
  (line,) = done.stdout.splitlines()
  assert line.startswith(f'cannot write {tmp_path / "5.unfinished"} (')
  assert 'MB are free' in line and 'rerun the same command' in line
  assert os.strerror(errno.EFBIG) in line
  # The state is restored on other devices than it was saved from.
  assert jax.device_count() == 4 and restored_step(tmp_path) == 3
  assert [path.name for path in tmp_path.iterdir()] == ['3']


# Saver


def test_the_saver_saves_in_order_and_is_busy_while_saving():
  done, go = [], threading.Event()
  with Saver() as saver:
    assert not saver.busy
    saver.start(lambda: go.wait() and done.append(1))
    assert saver.busy
    saver.check()  # does not wait
    assert done == []
    go.set()
    saver.start(done.append, 2)
    saver.wait()
    assert done == [1, 2] and not saver.busy


@pytest.mark.parametrize('method', ['check', 'wait', 'start', '__exit__'])
def test_the_error_of_a_save_is_raised_by_the_next_call(method):
  saver = Saver()
  saver.start(lambda: {}['no key'])
  while saver.busy:
    pass
  arguments = {'start': [print], '__exit__': [None, None, None]}
  with pytest.raises(KeyError, match='no key'):
    getattr(saver, method)(*arguments.get(method, []))
  saver.wait()  # it is raised once
  saver.__exit__(None, None, None)


def test_weights_are_the_average_if_there_is_one(tmp_path):
  folder = CheckpointFolder(tmp_path)
  folder.save(make_state(3, ema_decay=0.0), CARD, {})
  folder.save(make_state(5), card_at(5), {})
  for step, want in ((3, make_weights(3)), (5, make_weights(105))):
    assert_same(store.read(tmp_path / str(step))[0], want)
