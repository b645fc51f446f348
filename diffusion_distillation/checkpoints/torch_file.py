"""Finds the tensors in a file of torch.save, without PyTorch."""

import functools
import io
import struct
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion_distillation.checkpoints.torch_pickle import Tensor, check, load

_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6


class Array(NamedTuple):
  """An array of a file that is not read yet."""

  shape: tuple
  read: Callable[[], np.ndarray]


def find_arrays(content):
  """Returns a dict of the Array of each tensor in a file.

  Args:
    content: the file, a `.pth` of a flat dict of tensors in either format of
      torch.save.

  Raises:
    Exception: it is none, or damaged; `Array.read` raises likewise.
  """
  if content.startswith(b'PK'):
    return _find_in_zip(zipfile.ZipFile(io.BytesIO(content)))
  if content.startswith(b'\x80'):  # as every pickle of this age
    return _find_in_pickles(content)
  raise ValueError('it is neither a .pth nor a .npz')


def _find_in_zip(archive):
  """Returns the arrays of the format since PyTorch 1.6, a zip archive."""
  (index,) = (n for n in archive.namelist() if n.endswith('/data.pkl'))
  folder = index.removesuffix('data.pkl')

  def read(name):
    if archive.getinfo(folder + name).compress_type != zipfile.ZIP_STORED:
      raise ValueError(f'{name} is compressed')  # who knows from what size
    return archive.read(folder + name)

  def read_tensor(tensor):
    return _view(tensor, read(f'data/{tensor.storage.key}'))

  if f'{folder}byteorder' in archive.namelist():
    check(read('byteorder') == b'little', 'it is big-endian')
  tensors = _tensors(load(io.BytesIO(read('data.pkl'))))
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
  magic, protocol, system = (load(file) for _ in range(3))
  check((magic, protocol) == (_MAGIC, 1001), 'it is not of torch.save')
  check(system['little_endian'] is True, 'it is big-endian')
  tensors, keys = _tensors(load(file)), load(file)
  storages = {t.storage.key: t.storage for t in tensors.values()}
  data, start = {}, file.tell()
  for key in keys:
    (size,) = struct.unpack_from('<q', content, start)
    same = key in storages and size == storages[key].size
    check(same, f'storage {key} is of no tensor, or of another size')
    end = start + 8 + size * storages[key].dtype.itemsize
    data[key] = memoryview(content)[start + 8 : end]
    start = end
  check(start == len(content), f'it has {len(content)} bytes of {start}')
  return {
    name: Array(t.shape, functools.partial(_view, t, data[t.storage.key]))
    for name, t in tensors.items()
  }


def _view(tensor, data):
  """Returns the array of a tensor, of the bytes of its storage."""
  elements = np.frombuffer(data, tensor.storage.dtype)
  check(
    len(elements) == tensor.storage.size,
    f'storage {tensor.storage.key} has another size',
  )
  steps = zip(tensor.shape, tensor.strides, strict=True)
  last = tensor.offset + sum((n - 1) * stride for n, stride in steps)
  check(
    min((tensor.offset, *tensor.shape, *tensor.strides)) >= 0
    and last < len(elements),
    'a tensor reaches beyond its storage',
  )
  return np.lib.stride_tricks.as_strided(
    elements[tensor.offset :],
    tensor.shape,
    [stride * elements.itemsize for stride in tensor.strides],
  )


def _tensors(value):
  """Returns a dict of tensors as it is.

  Raises:
    ValueError: it is something else.
  """
  check(isinstance(value, dict), 'it holds no dict of tensors')
  for name, tensor in value.items():
    check(isinstance(tensor, Tensor), f'{name!r} is no tensor')
  return value
