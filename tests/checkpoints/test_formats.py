"""Files of weights: the original's msgpack, and safetensors."""

import json
import pathlib

import jax
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util
from ml_collections import ConfigDict

from configs import cifar10_base
from diffusion_distillation.checkpoints import (
  Checkpoint,
  export,
  load,
  read_card,
)
from diffusion_distillation.checkpoints.google import (
  load_google_checkpoint,
  save_google_checkpoint,
)
from diffusion_distillation.networks.unet import UNet
from diffusion_distillation.runtime.errors import UserError
from tests.checkpoints.toy import CARD, assert_same, make_weights
from tests.make_params import make_params

DATA = pathlib.Path(__file__).parents[1] / 'data'
FILE = DATA / 'cifar_like.flax'


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(leaves):
  return traverse_util.unflatten_dict(leaves, sep='/')


@pytest.fixture(scope='module')
def params():
  """The parameters in FILE."""
  args = json.loads((DATA / 'cifar_like.json').read_text())['unet']
  shapes = jax.eval_shape(
    lambda key: UNet(**args).init(
      key, np.zeros((1, 16, 16, 3)), np.zeros(1), np.zeros(1, int), train=False
    ),
    jax.random.key(0),
  )['params']
  return make_params(shapes)


@pytest.fixture(scope='module')
def config():
  """The config of FILE's network, for images that its data set has."""
  config = cifar10_base.get_config()
  args = json.loads((DATA / 'cifar_like.json').read_text())['unet']
  del args['num_classes'], args['out_ch']
  # This is half of 32 pixels, as 8 is half of the 16 that FILE was made with.
  config.model.args.update({**args, 'attn_resolutions': (16,)})
  return config


# The original's files


def test_a_file_of_the_original_is_read(params):
  loaded, num_steps = load_google_checkpoint(FILE)
  assert num_steps == 4
  assert_same(loaded, params)


def test_shapes_of_old_flax_are_converted(tmp_path, params):
  old = {
    name: leaf.reshape(1, 1, 1, -1) if leaf.ndim == 1 else leaf
    for name, leaf in flatten(params).items()
  }
  save_google_checkpoint(tmp_path / 'old', unflatten(old), None)
  loaded, num_steps = load_google_checkpoint(tmp_path / 'old')
  assert num_steps is None
  assert_same(loaded, params)


def test_a_kernel_in_the_shape_of_an_old_bias_stays(tmp_path):
  # A 1 x 1 convolution of one channel.
  tree = {'conv': {'kernel': np.ones((1, 1, 1, 5), np.float32)}}
  save_google_checkpoint(tmp_path / 'file', tree, None)
  assert_same(load_google_checkpoint(tmp_path / 'file')[0], tree)


@pytest.mark.parametrize('num_steps', [None, 8])
def test_what_is_written_is_read(tmp_path, params, num_steps):
  path = tmp_path / 'file.flax'
  save_google_checkpoint(path, params, num_steps)
  loaded, steps = load_google_checkpoint(path)
  assert steps == num_steps
  assert_same(loaded, params)
  # These are the keys that the original looks for.
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
  'not msgpack': (b'PK\x03\x04' * 9, 'extra data'),
  'foreign': (msgpack.packb({'params': {}}), 'no ema_params'),
  'a list': (msgpack.packb([1, 2]), 'no ema_params'),
  'no tree': (msgpack.packb({'ema_params': 'x'}), 'are str instead of a tree'),
  'huge array': (state(array([2**40], 'float32', b'1234')), ''),
  'huge map': (b'\xdf\xff\xff\xff\xff' + b'x' * 9, ''),
  'objects': (state(array([1], 'O', b'12345678')), ''),
  'ints': (state(array([1], 'int32', b'1234')), 'conv_in/bias holds int32'),
  'nan': (
    state(array([1], 'float32', np.float32('nan').tobytes())),
    'conv_in/bias is not finite',
  ),
  'text': (state('x'), 'conv_in/bias holds'),
  'an array': (
    msgpack.packb({'ema_params': array([1], 'float32', b'1234')}),
    'ema_params are ndarray instead of a tree',
  ),
  'deep': (b'\x81\xa1a' * 5000, ''),
}


@pytest.mark.parametrize(('data', 'message'), BAD.values(), ids=BAD)
def test_a_bad_file_gets_one_line(tmp_path, data, message):
  path = tmp_path / 'bad'
  path.write_bytes(data)
  with pytest.raises(UserError, match=f'cannot read {path}: .') as error:
    load_google_checkpoint(path)
  assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
  'num_steps', [-4, 2**20 + 1, 2.5, '8', True, None, np.arange(2), {'a': 1}]
)
def test_an_invalid_number_of_steps_is_refused(tmp_path, params, num_steps):
  path = tmp_path / 'bad'
  state = {'ema_params': params, 'num_sample_steps': num_steps}
  path.write_bytes(serialization.msgpack_serialize(state))
  with pytest.raises(UserError, match='num_sample_steps must be an') as error:
    load_google_checkpoint(path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('num_steps', [8, np.int32(8), np.array(8)])
def test_a_number_of_steps_may_come_from_numpy(tmp_path, params, num_steps):
  path = tmp_path / 'file'
  state = {'ema_params': params, 'num_sample_steps': num_steps}
  path.write_bytes(serialization.msgpack_serialize(state))
  assert load_google_checkpoint(path)[1] == 8


def test_a_gs_path_says_which_package_is_missing():
  with pytest.raises(UserError, match='pip install gcsfs'):
    load_google_checkpoint('gs://bucket/file')


def test_the_original_s_files_need_a_config():
  for read in (load, read_card):
    with pytest.raises(UserError, match='--config='):
      read(FILE)


def test_a_config_describes_a_file_without_a_card(config):
  checkpoint = load(FILE, config)
  card = checkpoint.card
  assert card.num_steps == 4 and card.sampler == 'ddim'
  assert card.parent is not None and card.objective == 'progressive'
  assert card.image_shape == (32, 32, 3)
  assert card.updates is None and card.is_finished
  assert read_card(FILE, config) == card


def test_a_teacher_s_file_is_sampled_as_the_config_says(
  tmp_path, params, config
):
  save_google_checkpoint(tmp_path / 'teacher', params, None)
  card = load(tmp_path / 'teacher', config).card
  assert card.parent is None and card.objective == 'denoising'
  assert (card.num_steps, card.sampler) == (1024, config.sampler)


def test_a_leaf_that_does_not_fit_the_config_is_named(config):
  wider = ConfigDict(config.to_dict())
  wider.model.args.ch *= 2
  with pytest.raises(UserError, match=r'of the config: conv_in/bias is \(32,'):
    load(FILE, wider)


# Both formats


@pytest.mark.parametrize('name', ['student.safetensors', 'student.flax'])
def test_weights_are_exported_and_read_again(tmp_path, params, config, name):
  checkpoint, path = load(FILE, config), tmp_path / name
  export(checkpoint, path)
  assert [inside.name for inside in path.parent.iterdir()] == [name]
  again = load(path, config)
  assert again.card == checkpoint.card == read_card(path, config)
  assert_same(again.weights, params)
  assert again.checksum == checkpoint.checksum


def test_an_exported_teacher_is_read_as_a_teacher(tmp_path, params, config):
  teacher, exported = tmp_path / 'teacher', tmp_path / 'exported'
  save_google_checkpoint(teacher, params, None)
  export(load(teacher, config), exported)
  # Its 1,024 sampling steps are a choice that the original does not store.
  raw = serialization.msgpack_restore(exported.read_bytes())
  assert raw['num_sample_steps'] == 0


# safetensors


def write(path, leaves, card=CARD):
  """Writes a file as another program would, without a checksum."""
  metadata = {'card': json.dumps(card.to_json())}
  path.write_bytes(safetensors.numpy.save(leaves, metadata))


@pytest.mark.parametrize(
  ('name', 'leaf', 'message'),
  [
    ('out/bias', None, 'of its card: out/bias is absent in the checkpoint'),
    ('out/bias', np.zeros(3), r'out/bias is \(3,\) in the checkpoint'),
    ('out/bias', np.zeros(16, int), 'out/bias holds int64'),
    ('out/bias', np.full(16, np.inf), 'out/bias is not finite'),
    ('more', np.zeros(3), r'more is \(3,\) in .* absent in the network'),
  ],
)
def test_a_wrong_leaf_is_named(tmp_path, name, leaf, message):
  leaves = {**flatten(make_weights()), name: leaf}
  path = tmp_path / 'x.safetensors'
  write(path, {k: v for k, v in leaves.items() if v is not None})
  with pytest.raises(UserError, match=message) as error:
    load(path)
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_half_precision_is_read_as_float32(tmp_path):
  leaves = flatten(make_weights())
  halves = {name: leaf.astype(np.float16) for name, leaf in leaves.items()}
  write(tmp_path / 'x.safetensors', halves)
  for name, leaf in flatten(load(tmp_path / 'x.safetensors').weights).items():
    assert leaf.dtype == np.float32
    np.testing.assert_array_equal(leaf, halves[name].astype(np.float32))


@pytest.mark.parametrize('place', ['first', 'weights', 'sampler'])
def test_a_changed_byte_is_noticed(tmp_path, place):
  path = tmp_path / 'x.safetensors'
  export(Checkpoint(make_weights(), CARD, 'here'), path)
  data = bytearray(path.read_bytes())
  where = {'first': 0, 'weights': -1, 'sampler': data.index(b'ddim') + 3}
  data[where[place]] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match=str(path)) as error:
    load(path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'not safetensors', 'cannot read'),
    (b'', 'cannot read'),
    (safetensors.numpy.save({'a': np.zeros(2)}), 'has no num_steps'),
    (safetensors.numpy.save({'a': np.zeros(2)}, {'card': '3'}), 'has no num_'),
    (safetensors.numpy.save({'a': np.zeros(2)}, {'card': '{'}), 'cannot read'),
  ],
)
def test_other_files_get_one_line(tmp_path, data, message):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(data)
  for read in (load, read_card):
    with pytest.raises(UserError, match=message) as error:
      read(path)
    assert '\n' not in str(error.value)
