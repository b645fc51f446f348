"""Random weights for Inception: a fixed function of name and shape.

Like `make_params.py`, they are not stored, and pin the names. Only NumPy is
needed: data/make_inception_reference.py draws them for another implementation.
"""

import zlib

import numpy as np


def make_inception_weights(shapes):
  """Returns a dict of float32 arrays, of a dict of names and shapes.

  Activations neither vanish nor grow through the network, and no statistic of
  a batch norm is trivial.
  """
  return {name: _draw(name, shape) for name, shape in shapes.items()}


def _draw(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  if name.endswith('running_var'):
    values = rng.uniform(0.5, 1.5, shape)
  elif len(shape) == 1:
    center = name.endswith('bn.weight')
    values = center + 0.1 * rng.standard_normal(shape)
  else:
    scale = np.sqrt(2 / np.prod(shape[1:]))
    values = scale * rng.standard_normal(shape)
  return values.astype(np.float32)
