"""Reads the tensors in files of torch.save, without PyTorch.

A pickle is a program: it names functions and says what to call them with. Here
each name stands for an inert function, which returns plain data, and names
without one are refused. Nothing that a file names is imported or called. A file
can still keep the reader busy without end, by dict keys of nested tuples, whose
hashing takes 2^depth steps: pickle hashes them before this code sees them.
"""

import contextlib
import functools
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion_distillation.runtime import files

_MAGIC = 0x1950A86A20F9469CFC6C  # begins files written before PyTorch 1.6
_DTYPES = {
  'torch.HalfStorage': '<f2',
  'torch.FloatStorage': '<f4',
  'torch.DoubleStorage': '<f8',
  'torch.LongStorage': '<i8',
}


class Storage(NamedTuple):
  """Elements in the file that tensors are views of."""

  dtype: str
  key: str
  size: int


class Tensor(NamedTuple):
  """A view of a Storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple
  strides: tuple


class Array(NamedTuple):
  """An array in a file that has not been read yet."""

  shape: tuple
  read: Callable[[], np.ndarray]


def find_arrays(content):
  """Returns a dict of the Array of each tensor in a file.

  Args:
    content: bytes of a file of torch.save, in either of its formats, which
      holds a flat dict of tensors.

  Raises:
    ValueError: the file is not such a file, is damaged, or refers to names that
      are not allowed. `Array.read` raises it, too.
  """
  if content.startswith(b'PK'):
    return _find_in_zip(content)
  if content.startswith(b'\x80'):  # the first byte of a pickle
    return _find_in_pickles(content)
  raise ValueError('it is neither a zip archive nor a pickle')


def unpickle(file, stand_ins):
  """Returns what a pickle describes; imports and runs nothing.

  Args:
    file: a binary file at the beginning of the pickle; it is moved to its end.
    stand_ins: mapping from names, 'module.name' as the pickle has them, to
      functions that return data, subclassable classes, or strings. All other
      names are refused.

  Raises:
    ValueError: the pickle refers to another name, or is damaged.
  """
  with _damage():
    start = file.tell()
    _check_counts(file)
    file.seek(start)
    return _Unpickler(file, stand_ins).load()


class _Unpickler(pickle.Unpickler):
  def __init__(self, file, stand_ins):
    super().__init__(file)
    self._stand_ins = stand_ins

  def find_class(self, module, name):
    full_name = f'{module}.{name}'
    _check(
      full_name in self._stand_ins,
      f'it refers to {full_name}, which was not run',
    )
    stand_in = self._stand_ins[full_name]
    if isinstance(stand_in, str):
      return stand_in
    # A new object each time, since a pickle can set attributes of what it gets.
    if isinstance(stand_in, type):
      return type(name, (stand_in,), {})
    return lambda *args, function=stand_in: function(*args)

  def persistent_load(self, pid):
    kind, dtype, key, _, size, *view = pid
    _check(
      kind == 'storage'
      and dtype in _DTYPES.values()
      and isinstance(key, str)
      and _are_counts(size)
      and view in ([], [None]),
      'it refers to something other than a whole storage',
    )
    return Storage(dtype, key, size)


def _check_counts(file):
  """Checks the sizes that a pickle states, since Unpickler reserves them.

  `genops` checks the sizes of strings, since it reads the strings. The memo is
  an array as long as its largest index.
  """
  for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
    if instruction.name in ('PUT', 'BINPUT', 'LONG_BINPUT'):
      _check(argument <= count, 'its pickle is damaged')


class _Dict(dict):
  """A dict that drops the attributes PyTorch adds: versions of modules."""

  def __setstate__(self, state):
    del state


def _rebuild_tensor(storage, offset, shape, strides, *_):
  """Returns a Tensor after checking that it lies within its storage."""
  _check(isinstance(storage, Storage), 'a tensor has no storage')
  _check(
    isinstance(shape, tuple)
    and isinstance(strides, tuple)
    and len(shape) == len(strides)
    and _are_counts(offset, *shape, *strides),
    'a tensor has no shape',
  )
  # Strides of 0 would make any number of elements out of one.
  _check(math.prod(shape) <= storage.size, 'a tensor exceeds its storage')
  last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
  _check(
    0 in shape or offset + last < storage.size,
    'a tensor reaches beyond its storage',
  )
  return Tensor(storage, offset, shape, strides)


# Stand-ins for the names that torch.save writes for a dict of tensors.
STAND_INS = {
  'collections.OrderedDict': _Dict,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_parameter': lambda tensor, *_: tensor,
  **_DTYPES,
}


def _find_in_zip(content):
  """Returns the arrays of the format since PyTorch 1.6, a zip archive."""
  with _damage():
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
  indices = [name for name in names if name.endswith('/data.pkl')]
  _check(len(indices) == 1, 'it has no data.pkl, or more than one')
  folder = indices[0].removesuffix('data.pkl')

  def read(name):
    with _damage():
      # Compressed data could have any size when unpacked.
      compression = archive.getinfo(folder + name).compress_type
      _check(compression == zipfile.ZIP_STORED, f'{name} is compressed')
      return archive.read(folder + name)

  def read_tensor(tensor):
    return _view(tensor, read(f'data/{tensor.storage.key}'))

  if f'{folder}byteorder' in names:
    _check(read('byteorder') == b'little', 'it is big-endian')
  tensors = _tensors(unpickle(io.BytesIO(read('data.pkl')), STAND_INS))
  return {
    name: Array(tensor.shape, functools.partial(read_tensor, tensor))
    for name, tensor in tensors.items()
  }


def _find_in_pickles(content):
  """Returns the arrays of the format before PyTorch 1.6.

  Five pickles (magic number, protocol, system, tensors, keys of storages), then
  the storages in that order: the number of elements, int64, and the elements.
  """
  file = io.BytesIO(content)
  magic, protocol, system = (unpickle(file, {}) for _ in range(3))
  _check(
    (magic, protocol) == (_MAGIC, 1001) and isinstance(system, dict),
    'it is not a file of torch.save',
  )
  _check(system.get('little_endian') is True, 'it is big-endian')
  tensors, keys = _tensors(unpickle(file, STAND_INS)), unpickle(file, {})
  storages = {t.storage.key: t.storage for t in tensors.values()}
  _check(
    isinstance(keys, list) and all(isinstance(key, str) for key in keys),
    'its storages have no names',
  )
  data, start = {}, file.tell()
  for key in keys:
    size = int.from_bytes(content[start : start + 8], 'little', signed=True)
    _check(
      key in storages and size == storages[key].size,
      f'storage {key} belongs to no tensor, or has another size',
    )
    end = start + 8 + size * np.dtype(storages[key].dtype).itemsize
    data[key] = memoryview(content)[start + 8 : end]
    start = end
  _check(start == len(content), f'it has {len(content)} bytes, not {start}')
  _check(data.keys() == storages.keys(), 'a storage is missing')
  return {
    name: Array(t.shape, functools.partial(_view, t, data[t.storage.key]))
    for name, t in tensors.items()
  }


def _tensors(value):
  """Returns a dict of Tensors unchanged.

  Raises:
    ValueError: the value is not a dict of named Tensors.
  """
  _check(isinstance(value, dict), 'it does not hold a dict of tensors')
  for name, tensor in value.items():
    _check(
      isinstance(name, str) and isinstance(tensor, Tensor),
      f'it holds a {type(tensor).__name__} that is not a named tensor',
    )
  return value


def _view(tensor, data):
  """Returns the array of a Tensor, given the bytes of its storage."""
  dtype = np.dtype(tensor.storage.dtype)
  _check(
    len(data) == tensor.storage.size * dtype.itemsize,
    f'storage {tensor.storage.key} has another size',
  )
  # The stride of a single element may have any size.
  steps = zip(tensor.shape, tensor.strides, strict=True)
  strides = [dtype.itemsize * (stride if n > 1 else 0) for n, stride in steps]
  elements = np.frombuffer(data, dtype)[tensor.offset :]
  return np.lib.stride_tricks.as_strided(elements, tensor.shape, strides)


def _are_counts(*values):
  return all(type(value) is int and value >= 0 for value in values)


def _check(condition, text):
  if not condition:
    raise ValueError(text)


@contextlib.contextmanager
def _damage():
  """Turns any exception that damage causes in a library into a ValueError."""
  try:
    yield
  except Exception as error:
    raise ValueError(files.reason(error)) from error
