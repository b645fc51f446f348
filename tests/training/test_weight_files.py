"""Files of weights: the original's msgpack, and safetensors."""

import json
import pathlib

import jax
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util

from configs import digits_base
from diffusion_distillation.errors import UserError
from diffusion_distillation.networks.unet import UNet
from diffusion_distillation.training import checkpoints, weight_files
from diffusion_distillation.training.google_checkpoints import (
  save_google_checkpoint,
)
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
  'no tree': (msgpack.packb({'ema_params': 'x'}), 'damaged'),
  'huge array': (state(array([2**40], 'float32', b'1234')), 'damaged'),
  'huge map': (b'\xdf\xff\xff\xff\xff' + b'x' * 9, 'damaged'),
  'objects': (state(array([1], 'O', b'12345678')), 'damaged'),
  'ints': (state(array([1], 'int32', b'1234')), 'conv_in/bias holds int32'),
  'nan': (
    state(array([1], 'float32', np.float32('nan').tobytes())),
    'conv_in/bias is not finite',
  ),
  'text': (state('x'), 'conv_in/bias holds'),
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


@pytest.mark.parametrize('name', ['student.safetensors', 'student.flax'])
def test_weights_are_exported_and_come_back(tmp_path, params, name):
  config = digits_base.get_config()
  checkpoint = checkpoints.load(FILE, config=config)
  path = tmp_path / name
  weight_files.write(checkpoint, path)
  again = checkpoints.load(path, config=config)
  assert json.dumps(again.card) == json.dumps(checkpoint.card)
  jax.tree.map(np.testing.assert_array_equal, again.weights, params)


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
