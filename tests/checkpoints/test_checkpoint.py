import jax
import numpy as np
import pytest

from diffusion_distillation import checkpoints
from diffusion_distillation.checkpoints import Checkpoint, export, find
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.checkpoints.weights import weights_checksum
from diffusion_distillation.runtime.errors import DamagedError, UserError
from diffusion_distillation.samplers import sample
from tests.checkpoints.test_store import flip_bit, largest
from tests.checkpoints.toy import (
  CARD,
  assert_same,
  card_at,
  make_state,
  make_weights,
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run folder with one training."""
  folder = tmp_path_factory.mktemp('run')
  inside = CheckpointFolder(folder / 'teacher' / 'checkpoints')
  for step in (3, 5):
    inside.save(make_state(step), card_at(step), {'seconds': step / 2})
  return folder


def test_a_checkpoint_is_loaded_and_sampled(tmp_path):
  path = tmp_path / 'student.safetensors'
  export(Checkpoint(make_weights(), CARD, 'here'), path)
  labels = np.array([0, 2], np.int32)
  z_1 = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))

  student = checkpoints.load(path)
  denoise = student.denoise({'label': labels})
  x = sample(denoise, z_1, schedule=student.card.schedule(), num_steps=2)

  bound = CARD.denoiser().bind(make_weights(), {'label': labels})
  want = sample(bound, z_1, schedule=CARD.schedule(), num_steps=2)
  np.testing.assert_array_equal(x, want)
  other = sample(
    student.denoise(), z_1, schedule=student.card.schedule(), num_steps=2
  )
  assert np.abs(x - other).max() > 1e-3  # without classes


def test_the_newest_step_of_a_training_is_loaded(run, monkeypatch):
  monkeypatch.chdir(run)
  newest = run / 'teacher' / 'checkpoints' / '5'
  for path in (run / 'teacher', 'teacher', newest.parent, newest):
    loaded = checkpoints.load(path)
    assert loaded.path == newest == find(path)
    assert loaded.card == card_at(5) == checkpoints.read_card(path)
    assert checkpoints.read_progress(path) == {'seconds': 2.5}
    assert_same(loaded.weights, make_state(5).ema_params)
  assert checkpoints.load(newest.with_name('3')).card.updates == 3


def test_the_path_of_a_file_is_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  export(Checkpoint(make_weights(), CARD, 'here'), 'x.safetensors')
  assert checkpoints.load('x.safetensors').path == tmp_path / 'x.safetensors'
  assert find('gs://bucket/file') == 'gs://bucket/file'


def test_an_unknown_suffix_is_refused(tmp_path):
  saved = Checkpoint(make_weights(), CARD, 'here')
  with pytest.raises(UserError, match=r'known: \.safetensors, \.flax, or none'):
    export(saved, tmp_path / 'x.pt')
  assert not any(tmp_path.iterdir())


def test_weights_have_the_same_checksum_in_every_format(run, tmp_path):
  saved = checkpoints.load(run / 'teacher')
  for name in ('x.safetensors', 'x.flax'):
    export(saved, tmp_path / name)
  exported = checkpoints.load(tmp_path / 'x.safetensors')
  assert exported.checksum == saved.checksum == weights_checksum(saved.weights)
  assert len(saved.checksum) == 64


def test_a_checksum_covers_names_shapes_types_and_values():
  zeros = np.zeros((2, 3), np.float32)
  trees = [
    {'a': {'b': zeros}},
    {'a': {'c': zeros}},
    {'a': {'b': zeros.T}},
    {'a': {'b': zeros.astype(np.int32)}},
    {'a': {'b': zeros + 1e-9}},
  ]
  assert len({weights_checksum(tree) for tree in trees}) == len(trees)
  fortran = {'a': {'b': np.asfortranarray(zeros)}}
  assert weights_checksum(fortran) == weights_checksum(trees[0])


def test_what_is_not_a_checkpoint_is_refused(run, tmp_path):
  with pytest.raises(UserError, match='there is no such file or folder'):
    checkpoints.load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='holds no checkpoint'):
    checkpoints.load(tmp_path)
  with pytest.raises(UserError, match='it has these trainings: teacher'):
    checkpoints.load(run)


def test_load_falls_back_to_an_older_checkpoint_with_a_warning(
  tmp_path, capsys
):
  folder = CheckpointFolder(tmp_path)
  for step in (3, 5):
    folder.save(make_state(step), card_at(step), {})
  flip_bit(largest(tmp_path / '5' / 'weights'))
  with pytest.raises(DamagedError, match='5 is damaged'):
    checkpoints.load(tmp_path)
  loaded = checkpoints.load(tmp_path, fall_back=True)
  assert loaded.path == tmp_path / '3'
  assert 'an older one is used' in capsys.readouterr().err
  assert (tmp_path / '5').is_dir()
  # A checkpoint that was asked for by its step is not replaced.
  with pytest.raises(DamagedError, match='5 is damaged'):
    checkpoints.load(tmp_path / '5', fall_back=True)


def test_weights_that_do_not_fit_their_card_are_refused(tmp_path):
  model = {**CARD.model, 'args': {'width': 16, 'depth': 1}}
  CheckpointFolder(tmp_path).save(make_state(3), CARD.replace(model=model), {})
  with pytest.raises(
    UserError, match=r'of its card: hidden_0/bias is \(32,\) in the .*\(16,\)'
  ):
    checkpoints.load(tmp_path)
