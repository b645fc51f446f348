"""Reads the weights of Inception from the file that pytorch-fid publishes."""

import functools
import hashlib
import io
import os
import pathlib
import zipfile

import numpy as np

from diffusion_distillation.checkpoints import torch_file
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

FILE_NAME = 'pt_inception-2015-12-05-6726825d.pth'
HOW_TO_GET = (
  f'download {FILE_NAME} from the release fid_weights of mseitzer/pytorch-fid '
  'on GitHub and set --config.eval.inception_path=PATH'
)


def read_weights(path, shapes):
  """Reads float32 arrays from a `.pth` or `.npz`, which may be malicious.

  Nothing in the file is executed, and no memory is allocated for a size that
  the file states before that size is checked.

  Args:
    path: a `.pth` of torch.save, or a `.npz`.
    shapes: dict of the names and shapes of the arrays that the file must hold.
      It may also hold counts of batches ('*.num_batches_tracked').

  Returns:
    A dict of arrays, and the file's SHA-256 in hexadecimal.

  Raises:
    UserError: the file cannot be read, is damaged, or holds anything else.
  """
  # Unlike pathlib's, this keeps the ~ if there is no home folder.
  path = pathlib.Path(os.path.expanduser(path))
  if not os.path.isfile(path):
    raise UserError(f'{path} is not a file: {HOW_TO_GET}')
  with files.reading(path):
    content = path.read_bytes()
  try:
    arrays = _find_arrays(content)
    problem = _mismatch(arrays, shapes)
    if problem is None:
      weights = {name: _floats(name, arrays[name].read()) for name in shapes}
  except Exception as error:  # zipfile, NumPy and pickle raise many types
    raise UserError(
      f'{path} is damaged, or does not hold the weights of Inception '
      f'({files.reason(error)}); {HOW_TO_GET}'
    ) from error
  if problem is not None:
    raise UserError(
      f'{path} does not hold the weights of Inception: {problem}; {HOW_TO_GET}'
    )
  return weights, hashlib.sha256(content).hexdigest()


def _find_arrays(content):
  """Returns a dict of the torch_file.Arrays in a file of either format."""
  if content.startswith(b'PK'):
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    if all(name.endswith('.npy') for name in names):
      return {name[:-4]: _npy(archive, name) for name in names}
  return torch_file.find_arrays(content)


def _npy(archive, name):
  """Returns the Array of a .npy, of which only the header is read."""
  headers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  with archive.open(name) as file:
    shape, _, _ = headers[np.lib.format.read_magic(file)](file)
  return torch_file.Array(shape, functools.partial(_read_npy, archive, name))


def _read_npy(archive, name):
  with archive.open(name) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def _mismatch(arrays, shapes):
  """Returns what differs between a file and the network; None if nothing."""
  found = {
    name: tuple(array.shape)
    for name, array in arrays.items()
    if not name.endswith('.num_batches_tracked')
  }
  for name in sorted(found.keys() | shapes.keys()):
    there, here = found.get(name, 'absent'), shapes.get(name, 'absent')
    if there != here:
      return f'{name} is {there} in the file and {here} in the network'
  return None


def _floats(name, array):
  if array.dtype.kind != 'f':
    raise ValueError(f'{name} has type {array.dtype}')
  array = array.astype(np.float32)
  if not np.all(np.isfinite(array)):
    raise ValueError(f'{name} has values that are not finite')
  return array
