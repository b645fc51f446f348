"""Reads Inception's weights from the file that pytorch-fid publishes."""

import functools
import hashlib
import io
import pathlib
import zipfile

import numpy as np

from diffusion_distillation.checkpoints import torch_file
from diffusion_distillation.runtime.errors import UserError

FILE_NAME = 'pt_inception-2015-12-05-6726825d.pth'
HOW_TO_GET = (
  f'fetch {FILE_NAME} from the release fid_weights of mseitzer/pytorch-fid on '
  'GitHub, and say where it is with --config.eval.inception_path=PATH'
)


def read_weights(path, shapes):
  """Returns a dict of float32 arrays, and the file's SHA-256 in hexadecimal.

  Nothing that the file says is run, and no size that it states is believed.

  Args:
    path: a `.pth` of torch.save, or a `.npz`; None is told where to get one.
    shapes: dict of the names that the file must hold, and their shapes. Counts
      of batches ('*.num_batches_tracked') may be there, too.

  Raises:
    UserError: the file cannot be read, is damaged, or holds anything else.
  """
  if path is None:
    raise UserError(f"Inception's weights are needed: {HOW_TO_GET}")
  path = pathlib.Path(path).expanduser()
  try:
    content = path.read_bytes()
  except FileNotFoundError as error:
    raise UserError(f'there is no {path}: {HOW_TO_GET}') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  try:
    arrays = _find_arrays(content)
    _check_match(path, arrays, shapes)
    weights = {name: _floats(name, arrays[name].read()) for name in shapes}
  except UserError:
    raise
  except Exception as error:  # damage breaks zipfile, NumPy and us in many ways
    reason = str(error).strip().split('\n')[0][:200]
    raise UserError(
      f"{path} is damaged or not Inception's weights ({reason}); {HOW_TO_GET}"
    ) from error
  return weights, hashlib.sha256(content).hexdigest()


def _find_arrays(content):
  """Returns a dict of torch_file.Array, whatever the format of the file."""
  if content.startswith(b'PK'):
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    if all(name.endswith('.npy') for name in names):
      return {name[:-4]: _npy(archive, name) for name in names}
  return torch_file.find_arrays(content)


def _npy(archive, name):
  """Returns the Array of a .npy of which nothing but the header is read."""
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


def _check_match(path, arrays, shapes):
  """Raises UserError that names the first array that differs."""
  present = {
    name: array.shape
    for name, array in arrays.items()
    if not name.endswith('.num_batches_tracked')
  }
  for name in sorted(present.keys() | shapes.keys()):
    there, here = (s.get(name, 'absent') for s in (present, shapes))
    if there != here:
      raise UserError(
        f"{path} does not hold Inception's weights: {name} is {there} there "
        f'and {here} here; {HOW_TO_GET}'
      )


def _floats(name, array):
  if array.dtype.kind != 'f':
    raise ValueError(f'{name} is of {array.dtype}')
  array = array.astype(np.float32)
  if not np.all(np.isfinite(array)):
    raise ValueError(f'{name} is not finite')
  return array
