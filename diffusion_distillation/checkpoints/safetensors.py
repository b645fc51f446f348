"""Checkpoints in one safetensors file, whose metadata hold the card."""

import hashlib
import json

import safetensors
import safetensors.numpy
from flax import traverse_util

from diffusion_distillation.checkpoints.card import Card
from diffusion_distillation.checkpoints.weights import (
  check_shapes,
  to_float32,
  weights_checksum,
)
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import DamagedError


def read(path, config=None):
  """Returns the weights of a file, as float32, and their Card.

  Args:
    path: path of the file.
    config: not used; the card describes the weights.

  Raises:
    UserError: the file cannot be read, is damaged, or has no card.
  """
  del config
  with files.reading(path), safetensors.safe_open(path, 'numpy') as file:
    metadata, card = _metadata(file), _read_card(file, path)
    flat = {name: file.get_tensor(name) for name in sorted(file.keys())}
    flat = {name: to_float32(name, leaf) for name, leaf in flat.items()}
  weights = traverse_util.unflatten_dict(flat, sep='/')
  check_shapes(path, weights, card.denoiser().param_shapes(), 'its card')
  checksum = metadata.get('checksum')  # other programs do not write one
  if checksum not in (None, _checksum(metadata['card'], weights)):
    raise DamagedError(f'{path} is damaged: its contents have changed')
  return weights, card


def read_card(path, config=None):
  """Returns the Card of a file; arguments and errors as in `read`."""
  del config
  with files.reading(path), safetensors.safe_open(path, 'numpy') as file:
    return _read_card(file, path)


def write(checkpoint, path):
  """Writes the weights and the card of a Checkpoint to a file."""
  card = json.dumps(checkpoint.card.to_json())
  metadata = {'card': card, 'checksum': _checksum(card, checkpoint.weights)}
  flat = traverse_util.flatten_dict(checkpoint.weights, sep='/')
  files.write_bytes(path, safetensors.numpy.save(flat, metadata))


def _metadata(file):
  return file.metadata() or {}


def _read_card(file, path):
  return Card.from_json(json.loads(_metadata(file).get('card', '{}')), path)


def _checksum(card, weights):
  """Returns a checksum of the text of a card and of a tree of weights."""
  text = f'{card}\n{weights_checksum(weights)}'
  return hashlib.sha256(text.encode()).hexdigest()
