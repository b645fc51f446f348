"""Checkpoints of Google's original: Flax msgpack files, read and written.

A file holds {'step', 'optimizer', 'ema_params', 'num_sample_steps'}.
"""

import functools

import numpy as np
from etils import epath
from flax import serialization, traverse_util
from jax import dtypes

from diffusion_distillation.errors import UserError
from diffusion_distillation.training import files


def load_google_checkpoint(path):
  """Returns (params, num_sample_steps) of a file in the original's format.

  params are `ema_params`, which is what the original samples and distills, as
  float32 NumPy arrays in our tree, which is the original's. num_sample_steps is
  what a student was made for, and None of a teacher (0 in the file).

  msgpack holds data, no code; sizes that the file declares but does not have
  are refused.

  Args:
    path: of the file, local or gs://.

  Raises:
    UserError: there is none, it is damaged, or another program's.
  """
  path = str(path)
  data = _fetch(path) if path.startswith('gs://') else _read_bytes(path)
  with files.reading(path):
    state = serialization.msgpack_restore(data)
    if not isinstance(state, dict) or not state.get('ema_params'):
      raise ValueError('it has no ema_params')
    params = traverse_util.flatten_dict(state['ema_params'], sep='/')
    params = {name: _leaf(name, leaf) for name, leaf in params.items()}
    num_sample_steps = int(state.get('num_sample_steps') or 0)
  return traverse_util.unflatten_dict(params, sep='/'), num_sample_steps or None


def save_google_checkpoint(path, params, num_sample_steps):
  """Writes a file that the original, and `load_google_checkpoint`, can read.

  Args:
    path: of the file, local.
    params: tree of arrays.
    num_sample_steps: of a student; None of a teacher.
  """
  state = {
    'step': 0,
    'optimizer': None,
    'ema_params': params,
    'num_sample_steps': num_sample_steps or 0,
  }
  files.write_bytes(path, serialization.msgpack_serialize(state))


def _read_bytes(path):
  try:
    return epath.Path(path).read_bytes()
  except ImportError as error:
    raise UserError(
      f'{path} cannot be read: {error}; gs:// paths need `pip install gcsfs`, '
      'or copy the file here'
    ) from error
  except Exception as error:  # of whatever file system the path names
    reason = ' '.join(str(error).split())[:200]
    raise UserError(f'{path} cannot be read: {reason}') from error


# One run asks for its teacher many times.
_fetch = functools.lru_cache(maxsize=1)(_read_bytes)


def _leaf(name, leaf):
  """Returns a leaf as float32, in today's shape.

  Flax once kept biases, and scales of norms, as (1, 1, 1, C).
  """
  leaf = np.asarray(leaf)
  if not dtypes.issubdtype(leaf.dtype, np.floating):
    raise ValueError(f'{name} holds {leaf.dtype}, no floats')
  leaf = leaf.astype(np.float32)
  if not np.isfinite(leaf).all():
    raise ValueError(f'{name} is not finite')
  old_shape = leaf.ndim == 4 and leaf.shape[:3] == (1, 1, 1)
  if old_shape and name.endswith(('/bias', '/scale')):
    leaf = leaf.reshape(-1)
  return leaf
