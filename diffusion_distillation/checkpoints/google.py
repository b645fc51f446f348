"""Checkpoints of Google's original program: Flax msgpack files.

A file holds {'step', 'optimizer', 'ema_params', 'num_sample_steps'}.
"""

import operator

import numpy as np
from etils import epath
from flax import serialization, traverse_util

from diffusion_distillation.checkpoints.card import MAX_NUM_STEPS, make_card
from diffusion_distillation.checkpoints.weights import check_shapes, to_float32
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError


def read(path, config):
  """Returns the weights of a file and the Card that a config gives them.

  Args:
    path: path of the file, local or gs://.
    config: config of the network, which the file does not describe.

  Raises:
    UserError: `config` is None, the file cannot be read, or its weights do not
      fit the config.
  """
  if config is None:
    raise UserError(
      f'{path} does not describe its network; name a config that does with '
      '--config=configs/NAME.py'
    )
  weights, num_steps = load_google_checkpoint(path)
  card = _describe(config, num_steps)
  shapes = card.denoiser().param_shapes()
  check_shapes(path, weights, shapes, 'the config')
  return weights, card


def read_card(path, config):
  """Returns the Card of a file; arguments and errors as in `read`."""
  return read(path, config)[1]


def _describe(config, num_steps):
  """Returns the Card of a student, or of a teacher if num_steps is None."""
  dataset = load_dataset(config.dataset.name, config.dataset.args)
  if num_steps is not None:
    return make_card(
      config,
      dataset,
      num_steps=num_steps,
      sampler='ddim',
      objective='progressive',
      parent='not known',
    )
  if not config.distillation.objective:
    num_steps = config.model.eval_sampling_num_steps
  else:
    num_steps = config.distillation.start_num_steps
  return make_card(
    config,
    dataset,
    num_steps=num_steps,
    sampler=config.sampler,
    objective=config.objective,
  )


def write(checkpoint, path):
  """Writes a Checkpoint as a file of the original.

  It keeps the number of steps of a student, and nothing else of the card.

  Args:
    checkpoint: a Checkpoint.
    path: path of the file.
  """
  card = checkpoint.card
  num_steps = None if card.parent is None else card.num_steps
  save_google_checkpoint(path, checkpoint.weights, num_steps)


def load_google_checkpoint(path):
  """Returns (params, num_sample_steps) of a file in the original's format.

  params are `ema_params`, which the original samples and distills, as float32
  NumPy arrays; the parameter tree is the same as ours. num_sample_steps is what
  a student was made for, and None for a teacher (0 in the file).

  msgpack holds data and no code. An array that states a larger size than the
  file has is refused.

  Args:
    path: path of the file, local or gs://.

  Raises:
    UserError: the file cannot be read, is damaged, or was written by another
      program.
  """
  with files.reading(path):
    state = serialization.msgpack_restore(_read_bytes(path))
    if not isinstance(state, dict) or 'ema_params' not in state:
      raise ValueError('it has no ema_params')
    params = state['ema_params']
    if not isinstance(params, dict) or not params:
      raise ValueError(
        f'its ema_params are {type(params).__name__} instead of a tree'
      )
    params = traverse_util.flatten_dict(params, sep='/')
    params = {name: _leaf(name, leaf) for name, leaf in params.items()}
    num_sample_steps = _sample_steps(state.get('num_sample_steps', 0))
  return traverse_util.unflatten_dict(params, sep='/'), num_sample_steps or None


def save_google_checkpoint(path, params, num_sample_steps):
  """Writes a file that the original and `load_google_checkpoint` can read.

  Args:
    path: local path of the file.
    params: nested dict of arrays.
    num_sample_steps: sampling steps of a student; None for a teacher.
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
      f'cannot read {path}: {error}; gs:// paths need `pip install gcsfs`, or '
      'copy the file to this machine'
    ) from error


def _sample_steps(value):
  """Returns an int; the value may be a NumPy array without axes."""
  try:
    num_steps = operator.index(np.asarray(value)[()])
  except TypeError:
    num_steps = -1
  if not 0 <= num_steps <= MAX_NUM_STEPS:
    raise ValueError(
      f'its num_sample_steps must be an int of 0 to {MAX_NUM_STEPS}, got '
      f'{value!r}'
    )
  return num_steps


def _leaf(name, leaf):
  """Returns a leaf as float32, in the shape that current Flax gives it.

  Old versions of Flax kept biases, and the scales of norms, as (1, 1, 1, C).
  """
  leaf = to_float32(name, leaf)
  old_shape = leaf.ndim == 4 and leaf.shape[:3] == (1, 1, 1)
  if old_shape and name.endswith(('/bias', '/scale')):
    leaf = leaf.reshape(-1)
  return leaf
