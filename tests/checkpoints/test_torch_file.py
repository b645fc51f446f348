"""Files of torch.save; see tests/data/README.md and tests/data/hostile."""

import io
import math
import os
import pathlib
import pickle
import struct
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from diffusion_distillation.checkpoints.torch_file import (
  STAND_INS,
  find_arrays,
  unpickle,
)

DATA = pathlib.Path(__file__).parents[1] / 'data'
HOSTILE = DATA / 'hostile'


def read(content):
  """Returns the arrays of a file, name -> array."""
  return {name: array.read() for name, array in find_arrays(content).items()}


def refusal(content):
  """Returns the error for a file, after checking that it took little memory."""
  tracemalloc.start()
  with pytest.raises(ValueError, match=r'.') as error:
    read(content)
  used = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert used < 2**20 + 4 * len(content)
  line = str(error.value)
  assert '\n' not in line and len(line) < 400 and 'object at 0x' not in line
  return line


def test_both_formats_hold_the_same_tensors():
  new, old = (
    read((HOSTILE / n).read_bytes()) for n in ('good.pt', 'good_legacy.pt')
  )
  assert new.keys() == old.keys() and len(new) == 22
  for name, array in new.items():
    assert array.dtype == np.float32 and array.ndim <= 4
    np.testing.assert_array_equal(array, old[name])


@pytest.mark.parametrize('name', ['old_format.pth', 'new_format.pth'])
def test_views_types_and_parameters_are_read(name):
  arrays = read((DATA / name).read_bytes())
  numbers = np.arange(24, dtype=np.float32)
  np.testing.assert_array_equal(
    arrays['conv.weight'], numbers.reshape(2, 3, 2, 2)
  )
  np.testing.assert_array_equal(arrays['fc.weight'], numbers.reshape(4, 6).T)
  np.testing.assert_array_equal(arrays['part'], numbers[5:9])
  np.testing.assert_array_equal(arrays['half'], np.float16([0.5, -2]))
  np.testing.assert_array_equal(arrays['double'], [[1 / 3]])
  np.testing.assert_array_equal(arrays['parameter'], np.float32([1.5]))
  assert arrays['bn.num_batches_tracked'] == 7


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('reduce.pt', 'refers to posix.system, which was not run'),
    ('persistent_id_reduce.pt', 'refers to posix.system, which was not run'),
    ('persistent_id_type.pt', 'refers to posix.system, which was not run'),
    ('zero_stride.pt', 'a tensor exceeds its storage'),
    ('beyond_storage.pt', 'a tensor reaches beyond its storage'),
    ('bit_in_a_tensor.pt', 'CRC'),
  ],
)
def test_hostile_files_are_refused(tmp_path, monkeypatch, name, message):
  monkeypatch.chdir(tmp_path)
  assert message in refusal((HOSTILE / name).read_bytes())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['good.pt', 'good_legacy.pt'])
def test_truncated_files_are_refused(name):
  content = (HOSTILE / name).read_bytes()
  for length in range(0, len(content), 97):
    refusal(content[:length])


@pytest.mark.parametrize('name', ['good_handmade.pt', 'good_legacy.pt'])
def test_damage_is_refused_or_harmless(name):
  content = (HOSTILE / name).read_bytes()
  shapes = {n: array.shape for n, array in find_arrays(content).items()}
  refused = 0
  for place in range(0, len(content), 5):
    damaged = bytearray(content)
    damaged[place] ^= 0xFF
    try:
      arrays = read(bytes(damaged))
    except ValueError as error:
      assert '\n' not in str(error)
      refused += 1
    else:  # a number, a letter of a name, or bytes that are not read
      assert [a.shape for a in arrays.values()] == list(shapes.values())
  assert refused > 50


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'PK'])
def test_other_files_are_refused(content):
  refusal(content)


# The files below are ones that torch.save would not write.


def instructions(value):
  """Returns the pickle of a value without its first and last instruction."""
  return pickle.dumps(value, 2)[2:-1]


def tensor(shape=(4,), strides=(1,), offset=0, size=4, key='0'):
  """Returns the instructions for a float32 tensor of storage '0'."""
  storage = b''.join(
    [
      b'(' + instructions('storage') + b'ctorch\nFloatStorage\n',
      *map(instructions, (key, 'cpu', size, None)),
      b'tQ',
    ]
  )
  view = b''.join(map(instructions, (offset, shape, strides, False, {})))
  return b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + view + b'tR'


def pickled(value):
  """Returns the pickle of {'w': value}, given a value's instructions."""
  return b'\x80\x02}' + instructions('w') + value + b's.'


def old_format(tensors, size=4):
  """Returns a file of a pickle, and of one storage of four float32 numbers."""
  system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}}
  head = [0x1950A86A20F9469CFC6C, 1001, system]
  return b''.join(
    [
      *(pickle.dumps(value, 2) for value in head),
      tensors,
      pickle.dumps(['0'], 2),
      struct.pack('<q4f', size, *range(4)),
    ]
  )


def new_format(tensors, compression=zipfile.ZIP_STORED):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compression) as archive:
    archive.writestr('a/data.pkl', tensors)
    archive.writestr('a/data/0', struct.pack('<4f', *range(4)))
  return file.getvalue()


FORMATS = [old_format, new_format]


class Evil:
  """An object that is pickled as a call of a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('pack', FORMATS)
def test_files_made_here_are_read(pack):
  np.testing.assert_array_equal(read(pack(pickled(tensor())))['w'], range(4))
  # The stride of an axis of length 1, or of an empty tensor, has no effect.
  one = tensor(shape=(1, 4), strides=(2**62, 1))
  np.testing.assert_array_equal(read(pack(pickled(one)))['w'], [range(4)])
  empty = tensor(shape=(0, 2), strides=(2**62, 1))
  assert read(pack(pickled(empty)))['w'].shape == (0, 2)


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('pack', [bytes, *FORMATS])
def test_no_code_of_a_pickle_is_run(tmp_path, pack, protocol):
  mark = tmp_path / 'mark'
  make_mark = f'open({str(mark)!r}, "w").close()'
  evils = [
    Evil(os.system, f'touch {mark}'),
    Evil(eval, make_mark),
    Evil(exec, make_mark),
    Evil(getattr, pathlib.Path(mark), 'touch'),
  ]
  for evil in evils:
    for value in (evil, {'w': evil}, {'w': [({'x': evil},)]}, {evil: 1}):
      refusal(pack(pickle.dumps(value, protocol)))
      assert not mark.exists()
  # A reader that trusts the same pickle runs it.
  pickle.loads(pickle.dumps(evils[0], protocol))
  assert mark.exists()


TORCH = b'ctorch\nFloatStorage\n'
REBUILD = b'ctorch._utils\n_rebuild_tensor_v2\n'
ORDERED = b'ccollections\nOrderedDict\n'


@pytest.mark.parametrize('pack', FORMATS)
@pytest.mark.parametrize(
  'value',
  [
    b'cposix\nsystem\n' + instructions('true') + b'\x85R',
    b'(iposix\nsystem\n',
    b'cnumpy\nload\n)R',
    b'cdiffusion_distillation.runtime.files\nwrite_bytes\n)R',
    b'ccollections\nOrderedDict.fromkeys\n)R',
    b'\x82\x01',  # an extension
    TORCH + b')R',
    TORCH,
    REBUILD,
    REBUILD + b')\x81',
    REBUILD + b'(NNNNNNtR',
    REBUILD + b')R',
    ORDERED + b'(}' + instructions('a') + b'sdb',
    ORDERED + b')R' + instructions('a') + b'b',
    b'(' + instructions('storage') + b'tQ',
    instructions(('storage', 'text', '0', 'cpu', 4)) + b'Q',
    instructions(7) + b'Q',
    instructions('text'),
    tensor(key=0),
    tensor(key='absent'),
    tensor()[:-1] + b'\x81',
    tensor()[:-1] + b'b',
  ],
)
def test_only_tensors_are_made(pack, value):
  refusal(pack(pickled(value)))


@pytest.mark.parametrize('pack', FORMATS)
def test_a_pickle_cannot_change_its_reader(pack):
  state = instructions(({}, {'__call__': 1, 'shape': 2, 'hidden': 3}))
  for name in (REBUILD, ORDERED, TORCH):
    refusal(pack(pickled(name + state + b'b')))
  before = {name: vars(v) for name, v in STAND_INS.items() if callable(v)}
  assert not any('hidden' in attributes for attributes in before.values())
  # Attributes of a dict are dropped: `items` would be one.
  values = b'\x80\x02' + ORDERED + b')R' + instructions({'items': 1}) + b'b'
  values += instructions('w') + tensor() + b's.'
  np.testing.assert_array_equal(read(pack(values))['w'], range(4))


@pytest.mark.parametrize(
  'settings',
  [
    {'shape': (2**40,), 'size': 2**40},
    {'shape': (2**40,), 'strides': (0,)},
    {'shape': (2**20, 2**20), 'strides': (0, 0)},
    {'shape': (5,), 'strides': (0,)},
    {'shape': (2**63, 2**63), 'strides': (0, 0)},
    {'shape': (-4,)},
    {'shape': (4.0,)},
    {'shape': (True,)},
    {'shape': [4]},
    {'shape': (1,) * 99, 'strides': (1,) * 99},
    {'strides': (2**62,)},
    {'strides': (-1,), 'offset': 3},
    {'strides': (1, 1)},
    {'offset': 1},
    {'offset': -(2**40)},
    {'offset': 2**70},
    {'size': -4},
    {'size': 4.0},
    {'size': 2**62},
    {'size': 3, 'shape': (3,)},
  ],
)
def test_sizes_are_checked_against_the_storage(settings):
  value = pickled(tensor(**settings))
  refusal(new_format(value))
  refusal(old_format(value))
  size = settings.get('size')
  if isinstance(size, int) and abs(size) < 2**63:
    refusal(old_format(value, size))


@pytest.mark.parametrize(
  'value',
  [
    b'X\xff\xff\xff\xffw',  # a text of 4 GiB
    b'B\xff\xff\xff\xffw',  # bytes
    b'\x8e' + b'\xff' * 7 + b'\x7fw',  # bytes of 2^63
    b'\x96' + b'\xff' * 7 + b'\x00w',  # a bytearray of 2^56
    b'\x8b\xff\xff\xff\x7fw',  # an int
    b'\x95' + b'\xff' * 7 + b'\x00',  # a frame
    b'}r\xff\xff\xff\xff',  # the last place of a memo of 4 GiB
    b'}p4000000000\n',
  ],
)
def test_a_small_pickle_that_states_a_huge_size_is_refused(value):
  with pytest.raises(ValueError, match=r'.') as error:
    unpickle(io.BytesIO(b'\x80\x02' + value + b'.'), STAND_INS)
  assert '\n' not in str(error.value)
  refusal(old_format(pickled(value)))
  refusal(new_format(pickled(value)))


def test_compressed_members_are_refused():
  bomb = new_format(pickled(tensor()) + bytes(2**24), zipfile.ZIP_DEFLATED)
  assert 'compressed' in refusal(bomb)


def test_pickles_in_a_row_are_read_one_by_one():
  file = io.BytesIO(pickle.dumps([1, 'a'], 4) + pickle.dumps({'b': 2.5}, 2))
  assert unpickle(file, {}) == [1, 'a']
  assert unpickle(file, {}) == {'b': 2.5}
  with pytest.raises(ValueError, match='pickle exhausted'):
    unpickle(file, {})


class Record(dict):
  """Stands in for a class, and keeps the attributes of its instance."""

  def __setstate__(self, state):
    self.update(state)


def test_further_names_may_be_allowed():
  content = pickle.dumps([types.SimpleNamespace(a=1), Evil(math.floor, 3.5)])
  names = {'types.SimpleNamespace': Record}
  with pytest.raises(ValueError, match=r'math\.floor, which was not run'):
    unpickle(io.BytesIO(content), names)
  names['math.floor'] = lambda number: ('floor', number)
  record, floor = unpickle(io.BytesIO(content), names)
  assert (record, floor) == ({'a': 1}, ('floor', 3.5))
  # A class of its own, so that a pickle cannot change the one that was given.
  assert isinstance(record, Record) and type(record) is not Record
