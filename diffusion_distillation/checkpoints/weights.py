"""Trees of weights: their checksum, and checks of their shapes and types."""

import hashlib

import jax
import numpy as np
from flax import traverse_util
from jax import dtypes

from diffusion_distillation.runtime.errors import UserError


def weights_checksum(weights):
  """Returns the SHA-256 of a tree of arrays, as 64 hexadecimal digits.

  It covers names, types, shapes and values, so weights have the same checksum
  in every file format.

  Args:
    weights: nested dict of arrays.
  """
  digest = hashlib.sha256()
  for name, leaf in jax.tree_util.tree_leaves_with_path(weights):
    array = np.ascontiguousarray(leaf)
    described = f'{jax.tree_util.keystr(name)} {array.dtype} {np.shape(leaf)}'
    digest.update(described.encode())
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def check_shapes(path, weights, expected, source):
  """Checks that weights have the names and shapes of a network's parameters.

  Args:
    path: path of the weights, for the message.
    weights: nested dict of arrays, or of anything else with a shape.
    expected: the same for the parameters of the network.
    source: text that says what describes the network, for the message.

  Raises:
    UserError: they differ; the message names the first leaf that does.
  """
  weights = traverse_util.flatten_dict(weights, sep='/')
  expected = traverse_util.flatten_dict(expected, sep='/')
  for name in sorted(weights.keys() | expected.keys()):
    there, here = (
      tuple(tree[name].shape) if name in tree else 'absent'
      for tree in (weights, expected)
    )
    if there != here:
      raise UserError(
        f'{path} does not fit the network of {source}: {name} is {there} in '
        f'the checkpoint and {here} in the network; use the model.args that it '
        'was trained with'
      )


def to_float32(name, leaf):
  """Returns a leaf of weights as float32.

  Raises:
    ValueError: it holds something other than floats, or one is not finite.
  """
  leaf = np.asarray(leaf)
  if not dtypes.issubdtype(leaf.dtype, np.floating):
    raise ValueError(f'{name} holds {leaf.dtype} instead of floats')
  leaf = leaf.astype(np.float32)
  if not np.isfinite(leaf).all():
    raise ValueError(f'{name} is not finite')
  return leaf
