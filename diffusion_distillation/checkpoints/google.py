"""Checkpoints of Google's original: Flax msgpack files, read and written.

A file holds {'step', 'optimizer', 'ema_params', 'num_sample_steps'}.
"""

import functools
import operator

import numpy as np
from etils import epath
from flax import serialization, traverse_util
from jax import dtypes

from diffusion_distillation.checkpoints.card import MOST_STEPS
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError


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
    if not isinstance(state, dict) or 'ema_params' not in state:
      raise ValueError('it has no ema_params')
    params = state['ema_params']
    if not isinstance(params, dict) or not params:
      raise ValueError(
        f'its ema_params are no tree but {type(params).__name__}'
      )
    params = traverse_util.flatten_dict(params, sep='/')
    params = {name: _leaf(name, leaf) for name, leaf in params.items()}
    num_sample_steps = _sample_steps(state.get('num_sample_steps', 0))
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


def _sample_steps(value):
  """Returns an int, which NumPy may have made an array of no axes."""
  try:
    num_steps = operator.index(np.asarray(value)[()])
  except TypeError:
    num_steps = -1
  if not 0 <= num_steps <= MOST_STEPS:
    raise ValueError(
      f'its num_sample_steps must be an int of 0 to {MOST_STEPS}, got {value!r}'
    )
  return num_steps


def as_float32(name, leaf):
  """Returns a leaf of weights as float32.

  Raises:
    ValueError: it holds something else than floats, or one is not finite.
  """
  leaf = np.asarray(leaf)
  if not dtypes.issubdtype(leaf.dtype, np.floating):
    raise ValueError(f'{name} holds {leaf.dtype}, no floats')
  leaf = leaf.astype(np.float32)
  if not np.isfinite(leaf).all():
    raise ValueError(f'{name} is not finite')
  return leaf


def _leaf(name, leaf):
  """Returns a leaf as float32, in today's shape.

  Flax once kept biases, and scales of norms, as (1, 1, 1, C).
  """
  leaf = as_float32(name, leaf)
  old_shape = leaf.ndim == 4 and leaf.shape[:3] == (1, 1, 1)
  if old_shape and name.endswith(('/bias', '/scale')):
    leaf = leaf.reshape(-1)
  return leaf
