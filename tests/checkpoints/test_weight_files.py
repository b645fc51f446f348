"""Files of weights: the original's msgpack, and safetensors."""

import json
import pathlib

import jax
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util

from configs import cifar10_base, digits_base
from diffusion_distillation import single
from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import weight_files
from diffusion_distillation.checkpoints.google import save_google_checkpoint
from diffusion_distillation.networks.unet import UNet
from diffusion_distillation.runtime.errors import UserError
from tests.make_params import make_params

DATA = pathlib.Path(__file__).parents[1] / 'data'
FILE = DATA / 'cifar_like.flax'


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


@pytest.fixture(scope='module')
def params():
  args = json.loads((DATA / 'cifar_like.json').read_text())['unet']
  shapes = jax.eval_shape(
    lambda key: UNet(**args).init(
      key, np.zeros((1, 16, 16, 3)), np.zeros(1), np.zeros(1, int), train=False
    ),
    jax.random.key(0),
  )['params']
  return make_params(shapes)


def test_a_file_of_the_original_loads(params):
  loaded, num_steps = checkpoints.load_google_checkpoint(FILE)
  assert num_steps == 4
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_the_shapes_of_old_flax_are_mapped_leaf_by_leaf(tmp_path, params):
  old = {
    name: leaf.reshape(1, 1, 1, -1) if leaf.ndim == 1 else leaf
    for name, leaf in flat(params).items()
  }
  path = tmp_path / 'old'
  save_google_checkpoint(path, traverse_util.unflatten_dict(old, sep='/'), None)
  loaded, num_steps = checkpoints.load_google_checkpoint(path)
  assert num_steps is None
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize('num_steps', [None, 8])
def test_what_is_written_is_read(tmp_path, params, num_steps):
  path = tmp_path / 'file.flax'
  save_google_checkpoint(path, params, num_steps)
  loaded, steps = checkpoints.load_google_checkpoint(path)
  assert steps == num_steps
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  # The keys that the original looks for.
  raw = serialization.msgpack_restore(path.read_bytes())
  assert sorted(raw) == ['ema_params', 'num_sample_steps', 'optimizer', 'step']


def array(shape, dtype, data):
  """Returns msgpack's form of an array, as Flax writes it."""
  return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def state(leaf, name='bias'):
  return msgpack.packb({'ema_params': {'conv_in': {name: leaf}}})


BAD = {
  'empty': (b'', 'incomplete'),
  'truncated': (FILE.read_bytes()[:600_000], 'incomplete'),
  'no msgpack': (b'PK\x03\x04' * 9, 'damaged'),
  'foreign': (msgpack.packb({'params': {}}), 'no ema_params'),
  'a list': (msgpack.packb([1, 2]), 'no ema_params'),
  'no tree': (msgpack.packb({'ema_params': 'x'}), 'no tree but str'),
  'huge array': (state(array([2**40], 'float32', b'1234')), 'damaged'),
  'huge map': (b'\xdf\xff\xff\xff\xff' + b'x' * 9, 'damaged'),
  'objects': (state(array([1], 'O', b'12345678')), 'damaged'),
  'ints': (state(array([1], 'int32', b'1234')), 'conv_in/bias holds int32'),
  'nan': (
    state(array([1], 'float32', np.float32('nan').tobytes())),
    'conv_in/bias is not finite',
  ),
  'text': (state('x'), 'conv_in/bias holds'),
  'an array': (
    msgpack.packb({'ema_params': array([1], 'float32', b'1234')}),
    'ema_params are no tree but ndarray',
  ),
  'deep': (b'\x81\xa1a' * 5000, 'damaged'),
}


@pytest.mark.parametrize(('data', 'message'), BAD.values(), ids=BAD)
def test_a_bad_file_gets_one_line(tmp_path, data, message):
  path = tmp_path / 'bad'
  path.write_bytes(data)
  with pytest.raises(UserError, match=message) as error:
    checkpoints.load_google_checkpoint(path)
  assert '\n' not in str(error.value)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  'num_steps', [-4, 2**20 + 1, 2.5, '8', True, None, np.arange(2), {'a': 1}]
)
def test_a_number_of_steps_must_be_one(tmp_path, params, num_steps):
  path = tmp_path / 'bad'
  state = {'ema_params': params, 'num_sample_steps': num_steps}
  path.write_bytes(serialization.msgpack_serialize(state))
  with pytest.raises(UserError, match='num_sample_steps must be an') as error:
    checkpoints.load_google_checkpoint(path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('num_steps', [8, np.int32(8), np.array(8)])
def test_a_number_of_steps_may_be_numpy_s(tmp_path, params, num_steps):
  path = tmp_path / 'file'
  state = {'ema_params': params, 'num_sample_steps': num_steps}
  path.write_bytes(serialization.msgpack_serialize(state))
  assert checkpoints.load_google_checkpoint(path)[1] == 8


def test_a_kernel_of_an_old_shape_stays(tmp_path):
  # The 1 x 1 convolution of one channel, which no old bias is.
  tree = {'conv': {'kernel': np.ones((1, 1, 1, 5), np.float32)}}
  path = tmp_path / 'file'
  save_google_checkpoint(path, tree, None)
  loaded, _ = checkpoints.load_google_checkpoint(path)
  assert loaded['conv']['kernel'].shape == (1, 1, 1, 5)


def test_a_gs_path_says_which_package_is_missing():
  with pytest.raises(UserError, match='pip install gcsfs'):
    checkpoints.load_google_checkpoint('gs://bucket/file')


def test_a_leaf_of_another_shape_is_named(params):
  wrong = flat(params)
  wrong['down_0.block_0/conv1/kernel'] = np.zeros((3, 3, 32, 64))
  config = digits_base.get_config()
  with pytest.raises(UserError, match=r'down_0\.block_0/conv1/kernel'):
    checkpoints.load(FILE, traverse_util.unflatten_dict(wrong, sep='/'), config)


def test_the_original_s_files_need_a_config():
  with pytest.raises(UserError, match='--config='):
    checkpoints.load(FILE)


def test_a_config_is_the_card_of_a_file_that_has_none():
  config = digits_base.get_config()
  checkpoint = checkpoints.load(FILE, config=config)
  assert checkpoint.card['num_steps'] == 4
  assert checkpoint.card['parent'] is not None  # a student
  assert checkpoint.card['image_shape'] == [8, 8, 1]
  assert checkpoint.card['training'] is None
  assert checkpoints.read_card(FILE, config) == checkpoint.card


@pytest.fixture(scope='module')
def config():
  """Of the network of FILE, for images that its data set has."""
  config = cifar10_base.get_config()
  args = json.loads((DATA / 'cifar_like.json').read_text())['unet']
  del args['num_classes'], args['out_ch']
  # Of half the image of 32 pixels, as FILE's 8 of 16.
  config.model.args.update({**args, 'attn_resolutions': (16,)})
  return config


@pytest.mark.parametrize('name', ['student.safetensors', 'student.flax'])
def test_weights_are_exported_and_come_back(tmp_path, params, config, name):
  checkpoint = checkpoints.load(FILE, config=config)
  path = tmp_path / name
  weight_files.write(checkpoint, path)
  again = checkpoints.load(path, config=config)
  card = {k: v for k, v in again.card.items() if k != 'checksums'}
  assert json.dumps(card) == json.dumps(checkpoint.card)
  jax.tree.map(np.testing.assert_array_equal, again.weights, params)


def test_a_teacher_is_exported_as_one(tmp_path, params, config):
  teacher, exported = tmp_path / 'teacher', tmp_path / 'exported'
  save_google_checkpoint(teacher, params, None)
  checkpoint = checkpoints.load(teacher, config=config)
  assert checkpoint.card['parent'] is None
  weight_files.write(checkpoint, exported)
  # Its 1,024 sampling steps are a choice, which the original's has not.
  raw = serialization.msgpack_restore(exported.read_bytes())
  assert raw['num_sample_steps'] == 0


def test_the_folder_of_an_export_is_made(tmp_path, config):
  out = tmp_path / 'new' / 'folder' / 'student.flax'
  single.export(str(FILE), str(out), config)
  assert [path.name for path in out.parent.iterdir()] == ['student.flax']


def test_the_path_of_a_file_is_absolute(tmp_path, config, monkeypatch):
  monkeypatch.chdir(DATA)
  assert checkpoints.find(FILE.name) == FILE
  assert checkpoints.load(FILE.name, config=config).path == FILE
  assert checkpoints.find('gs://bucket/file') == 'gs://bucket/file'


@pytest.mark.parametrize(
  ('name', 'leaf', 'message'),
  [
    ('conv_in/bias', None, 'network of its card: conv_in/bias is absent there'),
    ('conv_in/bias', np.zeros(3), r'conv_in/bias is \(3,\) there'),
    ('conv_in/bias', np.zeros(32, int), 'conv_in/bias holds int64'),
    ('conv_in/bias', np.full(32, np.inf), 'conv_in/bias is not finite'),
    ('more', np.zeros(3), r'more is \(3,\) there and absent here'),
  ],
)
def test_a_leaf_of_safetensors_that_is_wrong_is_named(
  tmp_path, config, name, leaf, message
):
  path = tmp_path / 'x.safetensors'
  card = checkpoints.load(FILE, config=config).card
  leaves = flat(checkpoints.load_google_checkpoint(FILE)[0])
  leaves = {k: v for k, v in {**leaves, name: leaf}.items() if v is not None}
  path.write_bytes(safetensors.numpy.save(leaves, {'card': json.dumps(card)}))
  with pytest.raises(UserError, match=message) as error:
    checkpoints.load(path)
  assert '\n' not in str(error.value)


def test_half_precision_is_read_as_float32(tmp_path, config):
  path = tmp_path / 'x.safetensors'
  card = checkpoints.load(FILE, config=config).card
  leaves = flat(checkpoints.load_google_checkpoint(FILE)[0])
  halves = {name: leaf.astype(np.float16) for name, leaf in leaves.items()}
  path.write_bytes(safetensors.numpy.save(halves, {'card': json.dumps(card)}))
  for name, leaf in flat(checkpoints.load(path).weights).items():
    assert leaf.dtype == np.float32
    np.testing.assert_array_equal(leaf, halves[name].astype(np.float32))


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'no safetensors', 'damaged'),
    (safetensors.numpy.save({'a': np.zeros(2)}), 'has no num_steps'),
    (safetensors.numpy.save({'a': np.zeros(2)}, {'card': '3'}), 'damaged|card'),
  ],
)
def test_safetensors_that_are_not_ours_get_one_line(tmp_path, data, message):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(data)
  with pytest.raises(UserError, match=message):
    checkpoints.load(path)
