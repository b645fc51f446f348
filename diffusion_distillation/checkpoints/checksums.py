"""Checksums of what a checkpoint holds: its reader takes any bytes for good."""

import hashlib
import json

import jax
import numpy as np

from diffusion_distillation.runtime.errors import DamagedError


def add_checksums(card, **items):
  """Returns a card that knows itself and the items it is saved with.

  Args:
    card: JSON values.
    **items: trees of host arrays.
  """
  sums = {name: _of_arrays(tree) for name, tree in items.items()}
  rest = _without(card)
  return {**rest, 'checksums': {**sums, 'card': _of_card(rest)}}


def verify(card, path, **items):
  """Compares a card, and the items read with it, with its checksums.

  A card without any, of an earlier version, is taken as it is.

  Args:
    card: as it was read.
    path: where, for the message.
    **items: trees of host arrays, of the structure that was saved.

  Raises:
    DamagedError: they differ.
  """
  if 'checksums' not in card:
    return
  said = card['checksums']
  found = {name: _of_arrays(tree) for name, tree in items.items()}
  for name, digest in {**found, 'card': _of_card(_without(card))}.items():
    if not isinstance(said, dict) or said.get(name) != digest:
      raise DamagedError(f'{path} is damaged: its {name} has another checksum')


def _without(card):
  return {name: value for name, value in card.items() if name != 'checksums'}


def _of_arrays(tree):
  """Returns the SHA-256 of names, types, shapes and bytes, in hexadecimal."""
  digest = hashlib.sha256()
  for name, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    what = f'{jax.tree_util.keystr(name)} {array.dtype} {np.shape(leaf)}'
    digest.update(what.encode())
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _of_card(card):
  card = json.loads(json.dumps(card))  # as a reader has it: keys are strings
  return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
