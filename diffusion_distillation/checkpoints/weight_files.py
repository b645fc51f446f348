"""Weights in one file: safetensors with a card, or the original's msgpack."""

import json
import pathlib

import safetensors
import safetensors.numpy
from flax import traverse_util

from diffusion_distillation.checkpoints import card as cards
from diffusion_distillation.checkpoints.checksums import add_checksums, verify
from diffusion_distillation.checkpoints.google import (
  as_float32,
  load_google_checkpoint,
  save_google_checkpoint,
)
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError


def is_file(path):
  """Returns whether a path means a file of weights, not a folder of ours."""
  return str(path).startswith('gs://') or pathlib.Path(path).is_file()


def needs_config(path):
  """Returns whether a path means a file that has no card: the original's."""
  return is_file(path) and not str(path).endswith('.safetensors')


def read(path, config=None):
  """Returns the weights of a file, and their card.

  Args:
    path: FILE.safetensors, or a file of the original, local or gs://.
    config: says what the weights of the original are, which its files do not.

  Raises:
    UserError: the file is neither, or damaged, or `config` is needed.
  """
  if not needs_config(path):
    return _read_safetensors(path)
  weights, num_steps = load_google_checkpoint(path)
  if config is None:
    raise UserError(
      f'{path} does not say what network it is of; say it with '
      '--config=configs/NAME.py'
    )
  dataset = load_dataset(config.dataset.name, config.dataset.args)
  # A student, unlike a teacher, is made for a number of steps.
  parent = None if num_steps is None else "the original's"
  card = cards.card_of(
    config, dataset, num_steps or cards.teacher_steps(config), parent
  )
  # As JSON has it: a card is compared with those that were saved.
  return weights, json.loads(json.dumps({**card, 'training': None}))


def write(checkpoint, path):
  """Writes the weights of a Checkpoint to one file.

  Args:
    checkpoint: a Checkpoint.
    path: FILE.safetensors, with the card as metadata; any other name is written
      in the original's format, which keeps the number of steps alone.
  """
  card = checkpoint.card
  if str(path).endswith('.safetensors'):
    card = add_checksums(card, weights=checkpoint.weights)
    flat = traverse_util.flatten_dict(checkpoint.weights, sep='/')
    data = safetensors.numpy.save(flat, {'card': json.dumps(card)})
    files.write_bytes(path, data)
    return
  num_steps = None if card['parent'] is None else card['num_steps']
  save_google_checkpoint(path, checkpoint.weights, num_steps)


def check_match(path, saved, expected, whose='the config'):
  """Checks that weights are those of a network, before they are read.

  That is not only friendlier: orbax answers a wrong shape with thousands of
  lines.

  Args:
    path: where they are.
    saved: tree of arrays, or of their metadata.
    expected: tree of arrays or ShapeDtypeStructs.
    whose: what says that the network is so.

  Raises:
    UserError: it names the first leaf in which the trees differ.
  """
  saved = traverse_util.flatten_dict(saved, sep='/')
  expected = traverse_util.flatten_dict(expected, sep='/')
  for name in sorted(saved.keys() | expected.keys()):
    shapes = [
      tuple(tree[name].shape) if name in tree else 'absent'
      for tree in (saved, expected)
    ]
    if shapes[0] != shapes[1]:
      raise UserError(
        f'{path} does not fit the network of {whose}: {name} is '
        f'{shapes[0]} there and {shapes[1]} here; use the model.args it was '
        'trained with'
      )


def _read_safetensors(path):
  with files.reading(path):
    with safetensors.safe_open(path, framework='numpy') as file:
      card = json.loads((file.metadata() or {}).get('card', '{}'))
    cards.check_keys(card, path)
    flat = safetensors.numpy.load_file(path)
    flat = {name: as_float32(name, leaf) for name, leaf in flat.items()}
    weights = traverse_util.unflatten_dict(flat, sep='/')
    denoiser = build_denoiser(card, card['image_shape'], card['num_classes'])
    check_match(path, weights, denoiser.param_shapes(), 'its card')
    verify(card, path, weights=weights)
  return weights, card
