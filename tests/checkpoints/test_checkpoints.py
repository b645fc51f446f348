import contextlib
import errno
import json
import logging
import os
import shutil
import sys

import jax
import numpy as np
import optax
import pytest

from diffusion_distillation.checkpoints import card as cards
from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import checksums, step_folder
from diffusion_distillation.checkpoints.checkpoint_folder import (
  CheckpointFolder,
)
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.state import create_state

PARAMS = {'down_0.block_0': {'kernel': np.arange(6.0, dtype=np.float32)}}
CARD = {
  'num_steps': 4,
  'sampler': 'ddim',
  'mean_type': 'x',
  'args': {'ch': 32},
  'logsnr_schedule': {'name': 'cosine'},
  'clip': True,
  'logvar_type': 'fixed_large',
  'image_shape': [8, 8, 1],
  'num_classes': 10,
  'dataset': {'name': 'digits'},
  'parent': None,
  'config': {'model': {}},
  'versions': {},
  'training': {'updates': 3, 'num_updates': 9},
}


def state(step=3, ema_decay=0.9, params=PARAMS):
  made = create_state(
    params, optax.adam(0.1), num_updates=9, ema_decay=ema_decay
  )
  made = made.replace(step=np.int32(step))
  if ema_decay:
    made = made.replace(ema_params=jax.tree.map(lambda p: p + 1, params))
  return jax.tree.map(np.asarray, made)


def card_at(step):
  return {**CARD, 'training': {'updates': int(step), 'num_updates': 9}}


def save(folder, *states):
  made = CheckpointFolder(folder)
  for each in states:
    made.save(each, card_at(each.step))


@pytest.mark.parametrize('ema_decay', [0.0, 0.9])
def test_a_state_comes_back_as_it_was(tmp_path, ema_decay):
  save(tmp_path, state(3, ema_decay))
  blank = state(0, ema_decay, jax.tree.map(np.zeros_like, PARAMS))
  folder = CheckpointFolder(tmp_path)
  restored, card = folder.restore(blank, 9)
  jax.tree.map(np.testing.assert_array_equal, restored, state(3, ema_decay))
  assert jax.tree.structure(restored) == jax.tree.structure(state(3, ema_decay))
  assert CARD.items() <= card.items()


def test_an_empty_folder_restores_nothing(tmp_path):
  assert CheckpointFolder(tmp_path).restore(state(), 9) is None


def test_the_weights_are_the_average_and_the_newest_step_s(tmp_path):
  save(tmp_path / 'teacher' / 'checkpoints', state(3), state(5))
  for path in ('teacher', 'teacher/checkpoints', 'teacher/checkpoints/5'):
    loaded = checkpoints.load(tmp_path / path)
    assert loaded.path.name == '5' and loaded.card.items() >= card_at(5).items()
    np.testing.assert_array_equal(
      loaded.weights['down_0.block_0']['kernel'], np.arange(1.0, 7.0)
    )


def test_a_step_is_never_written_twice_in_silence(tmp_path):
  with pytest.raises(UserError, match='not overwritten'):
    save(tmp_path, state(5), state(5))


@pytest.mark.parametrize(
  ('kernel', 'message'),
  [
    ({'kernel': np.zeros(7, np.float32)}, r'kernel is \(6,\) there and \(7,\)'),
    ({'bias': np.zeros(6, np.float32)}, 'bias is absent there'),
  ],
)
def test_another_network_s_weights_are_refused_by_name(
  tmp_path, kernel, message
):
  save(tmp_path, state())
  with pytest.raises(UserError, match=message):
    checkpoints.load(tmp_path, {'down_0.block_0': kernel})


def test_what_is_no_checkpoint_is_refused(tmp_path):
  with pytest.raises(UserError, match='no such folder'):
    checkpoints.load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='holds no checkpoint'):
    checkpoints.load(tmp_path)
  save(tmp_path / 'run' / 'student_00004' / 'checkpoints', state())
  with pytest.raises(UserError, match='student_00004'):
    checkpoints.load(tmp_path / 'run')


def test_a_reader_s_error_without_words_is_named():
  with (
    pytest.raises(UserError, match=r'not ours: EOFError$'),
    files.reading('here'),
  ):
    raise EOFError


def test_what_cannot_be_written_leaves_nothing(tmp_path):
  (tmp_path / 'folder' / 'inside').mkdir(parents=True)
  with pytest.raises(UserError, match='folder cannot be written'):
    files.write_bytes(tmp_path / 'folder', b'data')
  assert [path.name for path in tmp_path.iterdir()] == ['folder']


def damage(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  'path', ['card/metadata', 'weights/_METADATA', 'weights/manifest.ocdbt']
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, path):
  save(tmp_path, state())
  damage(tmp_path / '3' / path)
  with pytest.raises(UserError, match='cannot be read') as caught:
    checkpoints.load(tmp_path)
  assert '\n' not in str(caught.value)


def test_a_good_card_is_as_it_was():
  assert cards.check_keys(CARD, 'here') is CARD
  for key in ('parent', 'config', 'training'):
    cards.check_keys({**CARD, key: None}, 'here')


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('num_steps', 0),
    ('num_steps', 2**20 + 1),
    ('num_steps', True),
    ('num_steps', '8'),
    ('num_steps', None),
    ('sampler', 3),
    ('mean_type', None),
    ('args', [1]),
    ('logsnr_schedule', 'cosine'),
    ('clip', 'no'),
    ('logvar_type', {}),
    ('image_shape', [8, 8]),
    ('image_shape', [8, 8, 0]),
    ('num_classes', 1.5),
    ('dataset', 'digits'),
    ('parent', 7),
    ('config', 'none'),
    ('config', {'model': 3}),
    ('training', []),
    ('training', {'updates': 3}),
    ('training', {'updates': 3, 'num_updates': 'all'}),
  ],
)
def test_a_card_that_makes_no_sense_is_refused(key, value):
  with pytest.raises(UserError, match=f'the card of here .* its {key} is'):
    cards.check_keys({**CARD, key: value}, 'here')


def test_another_program_s_card_is_refused(tmp_path):
  CheckpointFolder(tmp_path).save(state(), {'epoch': 7})
  with pytest.raises(UserError, match='has no num_steps'):
    checkpoints.load(tmp_path)


def flip(path):
  """Flips one bit of the largest file below a folder: the arrays' bytes."""
  files_below = [p for p in path.rglob('*') if p.is_file()]
  largest = max(files_below, key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)


def big(step):
  """Returns a state whose arrays are most of its files' bytes."""
  rng = np.random.default_rng(step)
  kernel = rng.standard_normal((64, 64)).astype(np.float32)
  return state(step, params={'dense': {'kernel': kernel}})


def empty(path):
  shutil.rmtree(path)
  path.mkdir()


DAMAGE = {
  'a bit of the weights': lambda path: flip(path / 'weights' / 'd'),
  'a bit of the moments': lambda path: flip(path / 'training' / 'd'),
  # Files that orbax has no fault to find with.
  'weights of another step': lambda path: shutil.copytree(
    path.with_name('3') / 'weights', path / 'weights', dirs_exist_ok=True
  ),
  'a bit of a key of the card': lambda path: (
    path / 'card' / 'metadata'
  ).write_text(
    (path / 'card' / 'metadata').read_text().replace('num_steps', 'num_stepr')
  ),
  'a bit of the card': lambda path: (path / 'card' / 'metadata').write_text(
    (path / 'card' / 'metadata').read_text().replace('ddim', 'ddin')
  ),
  'truncated': lambda path: damage(
    next(p for p in (path / 'weights' / 'd').iterdir())
  ),
  'emptied': empty,
  'no weights': lambda path: shutil.rmtree(path / 'weights'),
  'no training': lambda path: shutil.rmtree(path / 'training'),
  'no card': lambda path: shutil.rmtree(path / 'card'),
}


@pytest.mark.parametrize('break_it', DAMAGE.values(), ids=DAMAGE)
def test_from_a_damaged_checkpoint_it_falls_back(tmp_path, capsys, break_it):
  save(tmp_path, big(3), big(5))
  break_it(tmp_path / '5')
  folder = CheckpointFolder(tmp_path)
  restored, _ = folder.restore(big(0), 9)
  jax.tree.map(np.testing.assert_array_equal, restored, big(3))
  warning = capsys.readouterr().err
  assert warning.startswith('warning: ') and warning.count('\n') == 1
  assert f'{tmp_path / "5"} ' in warning and '5.damaged' in warning
  # It is kept under its new name, and its step can be saved again.
  assert (tmp_path / '5.damaged').is_dir()
  folder.save(big(5), card_at(5))
  jax.tree.map(
    np.testing.assert_array_equal, folder.restore(big(0), 9)[0], big(5)
  )


def test_where_none_is_good_nothing_is_touched(tmp_path):
  save(tmp_path, big(3), big(5))
  for step in ('3', '5'):
    flip(tmp_path / step / 'weights' / 'd')
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(UserError, match=r'no checkpoint in .* is good') as caught:
    CheckpointFolder(tmp_path).restore(big(0), 9)
  assert '\n' not in str(caught.value)
  assert sorted(tmp_path.rglob('*')) == before


def test_foreign_files_do_not_matter_and_what_a_kill_left_goes(tmp_path):
  save(tmp_path, big(3))
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / '7').write_text('no folder')
  (tmp_path / '9.orbax-checkpoint-tmp').mkdir()
  restored, _ = CheckpointFolder(tmp_path).restore(big(0), 9)
  assert restored.step == 3
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'3', 'notes.txt', '7'}


def test_another_network_s_checkpoint_is_no_damage(tmp_path):
  save(tmp_path, state(3))
  with pytest.raises(UserError, match='does not fit'):
    CheckpointFolder(tmp_path).restore(big(0), 9)
  assert (tmp_path / '3').is_dir()


def test_a_reader_may_fall_back_and_says_so(tmp_path, capsys):
  save(tmp_path, big(3), big(5))
  flip(tmp_path / '5' / 'weights' / 'd')
  with pytest.raises(UserError, match='damaged'):
    checkpoints.load(tmp_path)
  loaded = checkpoints.load(tmp_path, fall_back=True)
  assert (
    loaded.path.name == '3'
    and 'an older one is used' in capsys.readouterr().err
  )
  # What is asked for by name is not replaced.
  with pytest.raises(UserError, match='damaged'):
    checkpoints.load(tmp_path / '5', fall_back=True)


def test_a_finished_training_needs_its_weights_alone(tmp_path):
  save(tmp_path, big(9))
  shutil.rmtree(tmp_path / '9' / 'training')
  restored, _ = CheckpointFolder(tmp_path).restore(big(0), 9)
  assert restored.opt_state is None
  jax.tree.map(
    np.testing.assert_array_equal, restored.weights, big(9).ema_params
  )


def test_the_two_newest_are_kept(tmp_path):
  save(tmp_path, big(1), big(2), big(5))
  assert sorted(path.name for path in tmp_path.iterdir()) == ['2', '5']


def test_a_card_of_an_earlier_version_has_no_checksums(tmp_path):
  checksums.verify(CARD, tmp_path, weights=PARAMS)
  card = checksums.add_checksums(CARD, weights=PARAMS)
  checksums.verify(json.loads(json.dumps(card)), tmp_path, weights=PARAMS)
  other = jax.tree.map(lambda leaf: leaf.reshape(2, 3), PARAMS)
  with pytest.raises(UserError, match='its weights has another checksum'):
    checksums.verify(card, tmp_path, weights=other)


@pytest.mark.parametrize('item', ['weights', 'training', 'card'])
def test_each_checksum_is_looked_at(tmp_path, monkeypatch, item):
  """Of files that their reader has no fault to find with."""
  add = checksums.add_checksums

  def wrong(card, **items):
    card = add(card, **items)
    return {**card, 'checksums': {**card['checksums'], item: '0'}}

  save(tmp_path, big(3))
  monkeypatch.setattr(step_folder, 'add_checksums', wrong)
  save(tmp_path, big(5))
  restored, _ = CheckpointFolder(tmp_path).restore(big(0), 9)
  assert restored.step == 3 and (tmp_path / '5.damaged').is_dir()


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)),
    RuntimeError("can't start new thread"),
    # As TensorStore has it.
    ValueError('DATA_LOSS: Failed to open [OS error 13: Permission denied]'),
    MemoryError(),
  ],
)
def test_what_cannot_be_read_for_now_is_no_damage(tmp_path, monkeypatch, error):
  def fail(*args, **kwargs):
    raise error

  save(tmp_path, big(3), big(5))
  before = sorted(tmp_path.rglob('*'))
  monkeypatch.setattr(
    step_folder.ocp.StandardCheckpointHandler, 'restore', fail
  )
  with pytest.raises(UserError, match=r'5 cannot be read now: .* try again'):
    CheckpointFolder(tmp_path).restore(big(0), 9)
  assert sorted(tmp_path.rglob('*')) == before


def test_orbax_is_heard_again_once_no_thread_needs_it_quiet():
  logger, hook, quiet = logging.getLogger('absl'), sys.unraisablehook, []
  logger.setLevel(logging.WARNING)
  # A save begins, a read begins, the save ends first.
  with contextlib.ExitStack() as read:
    with step_folder._quiet:
      read.enter_context(step_folder._quiet)
    quiet.append(logger.level)
  assert quiet == [logging.CRITICAL]
  assert (logger.level, sys.unraisablehook) == (logging.WARNING, hook)
  # What fails still has its late tracebacks to come.
  with pytest.raises(UserError), step_folder._quiet, step_folder._quiet:
    raise UserError
  assert logger.level == logging.CRITICAL
  logger.setLevel(logging.WARNING)
  sys.unraisablehook = hook


@pytest.mark.parametrize(
  'data',
  [
    b'{"stage": "teacher"}\n',
    b'{"stage": "teacher", "step": "x"}\n',
    b'\xff\n',
    b'[3]\n',
    b'7\n',
  ],
)
def test_damaged_lines_are_told_in_one_line(tmp_path, data):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(data)
  with pytest.raises(UserError, match=r'metrics\.jsonl is damaged') as caught:
    files.read_jsonl(path, {'stage': str, 'step': int})
  assert '\n' not in str(caught.value)


def test_a_torn_line_may_be_torn_within_a_character(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"a": 1}\n{"b": "\xc3')
  assert files.read_jsonl(path) == [{'a': 1}]
  files.append_jsonl(path, {'c': 2})
  assert path.read_bytes() == b'{"a": 1}\n{"c": 2}\n'


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch):
  def fail(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  save(tmp_path, big(3))
  assert step_folder.steps(tmp_path / 'nowhere') == []
  assert step_folder.steps(tmp_path / '3' / '_CHECKPOINT_METADATA') == []
  folder = CheckpointFolder(tmp_path)
  monkeypatch.setattr(os, 'scandir', fail)
  with pytest.raises(UserError, match='cannot be read now: Input/output error'):
    folder.restore(big(0), 9)
