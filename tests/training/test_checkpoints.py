import jax
import numpy as np
import optax
import pytest

from diffusion_distillation.errors import UserError
from diffusion_distillation.training import cards, checkpoints, files
from diffusion_distillation.training.checkpoint_folder import CheckpointFolder
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


def save(folder, *states):
  made = CheckpointFolder(folder)
  for each in states:
    made.save(each, CARD)


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
    assert loaded.path.name == '5' and loaded.card.items() >= CARD.items()
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
