"""The layers of Inception v3, in the names of pytorch-fid's file of weights.

Szegedy et al. 2015 (arXiv 1512.00567), as in TensorFlow's graph of 2015-12-05,
which differs from later ones: average pools leave the padding out of the mean,
the last block has a max pool, and there are 1008 classes. Batch norms are part
of the convolutions.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

_avg_pool = functools.partial(
  nn.avg_pool, window_shape=(3, 3), padding='SAME', count_include_pad=False
)
_max_pool = functools.partial(nn.max_pool, window_shape=(3, 3))
_halve = functools.partial(_max_pool, strides=(2, 2))


def _conv(x, name, out_ch, size=1, stride=1, padding='SAME'):
  """Returns relu(conv(x)); `size` is an int or (height, width)."""
  size = (size, size) if isinstance(size, int) else size
  # Not the faster TF32 or bfloat16 of accelerators: figures are compared with
  # those of others, in the third digit.
  layer = nn.Conv(
    out_ch, size, stride, padding=padding, precision='highest', name=name
  )
  return nn.relu(layer(x))


_halving_conv = functools.partial(_conv, size=3, stride=2, padding='VALID')


def _chain(x, name, *layers):
  """Returns x after convolutions name_1, name_2, ... of (out_ch, size)."""
  for number, (out_ch, size) in enumerate(layers, 1):
    x = _conv(x, f'{name}_{number}', out_ch, size)
  return x


def _join(*branches):
  return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
  """35 x 35 pixels: convolutions of 1, 5 and twice 3."""

  pool_ch: int

  @nn.compact
  def __call__(self, x):
    """Returns (B, 35, 35, 224 + pool_ch) of x (B, 35, 35, C)."""
    return _join(
      _conv(x, 'branch1x1', 64),
      _chain(x, 'branch5x5', (48, 1), (64, 5)),
      _chain(x, 'branch3x3dbl', (64, 1), (96, 3), (96, 3)),
      _conv(_avg_pool(x), 'branch_pool', self.pool_ch),
    )


class BlockB(nn.Module):
  """From 35 x 35 to 17 x 17 pixels."""

  @nn.compact
  def __call__(self, x):
    """Returns (B, 17, 17, 480 + C) of x (B, 35, 35, C)."""
    twice = _chain(x, 'branch3x3dbl', (64, 1), (96, 3))
    return _join(
      _halving_conv(x, 'branch3x3', 384),
      _halving_conv(twice, 'branch3x3dbl_3', 96),
      _halve(x),
    )


class BlockC(nn.Module):
  """17 x 17 pixels: convolutions of 7, split into rows and columns."""

  inner_ch: int

  @nn.compact
  def __call__(self, x):
    """Returns (B, 17, 17, 768) of x (B, 17, 17, 768)."""
    row, column = (self.inner_ch, (1, 7)), (self.inner_ch, (7, 1))
    first, last = (self.inner_ch, 1), (192, (1, 7))
    return _join(
      _conv(x, 'branch1x1', 192),
      _chain(x, 'branch7x7', first, row, (192, (7, 1))),
      _chain(x, 'branch7x7dbl', first, column, row, column, last),
      _conv(_avg_pool(x), 'branch_pool', 192),
    )


class BlockD(nn.Module):
  """From 17 x 17 to 8 x 8 pixels."""

  @nn.compact
  def __call__(self, x):
    """Returns (B, 8, 8, 512 + C) of x (B, 17, 17, C)."""
    once = _chain(x, 'branch3x3', (192, 1))
    split = _chain(x, 'branch7x7x3', (192, 1), (192, (1, 7)), (192, (7, 1)))
    return _join(
      _halving_conv(once, 'branch3x3_2', 320),
      _halving_conv(split, 'branch7x7x3_4', 192),
      _halve(x),
    )


class BlockE(nn.Module):
  """8 x 8 pixels: rows and columns of 3, side by side."""

  max_pool: bool

  @nn.compact
  def __call__(self, x):
    """Returns (B, 8, 8, 2048) of x (B, 8, 8, C)."""
    pool = _max_pool if self.max_pool else _avg_pool
    once = _chain(x, 'branch3x3', (384, 1))
    twice = _chain(x, 'branch3x3dbl', (448, 1), (384, 3))
    return _join(
      _conv(x, 'branch1x1', 320),
      _conv(once, 'branch3x3_2a', 384, (1, 3)),
      _conv(once, 'branch3x3_2b', 384, (3, 1)),
      _conv(twice, 'branch3x3dbl_3a', 384, (1, 3)),
      _conv(twice, 'branch3x3dbl_3b', 384, (3, 1)),
      _conv(pool(x, padding='SAME'), 'branch_pool', 192),
    )


class Network(nn.Module):
  """The whole network."""

  @nn.compact
  def __call__(self, x):
    """Returns features (B, 2048), spatial (B, 17, 17, 7), logits (B, 1008).

    Args:
      x: (B, 299, 299, 3) float32 images, about -1 to 1.
    """
    x = _halving_conv(x, 'Conv2d_1a_3x3', 32)
    x = _conv(x, 'Conv2d_2a_3x3', 32, 3, padding='VALID')
    x = _halve(_conv(x, 'Conv2d_2b_3x3', 64, 3))  # (B, 73, 73, 64)
    x = _conv(x, 'Conv2d_3b_1x1', 80)
    x = _halve(_conv(x, 'Conv2d_4a_3x3', 192, 3, padding='VALID'))
    x = BlockA(32, name='Mixed_5b')(x)  # (B, 35, 35, 256)
    x = BlockA(64, name='Mixed_5c')(x)
    x = BlockA(64, name='Mixed_5d')(x)
    x = BlockB(name='Mixed_6a')(x)  # (B, 17, 17, 768)
    x = BlockC(128, name='Mixed_6b')(x)
    x = BlockC(160, name='Mixed_6c')(x)
    x = BlockC(160, name='Mixed_6d')(x)
    # TensorFlow's 'mixed_6/conv:0' is the block's first branch.
    spatial = x[..., :7]
    x = BlockC(192, name='Mixed_6e')(x)
    x = BlockD(name='Mixed_7a')(x)  # (B, 8, 8, 1280)
    x = BlockE(max_pool=False, name='Mixed_7b')(x)
    x = BlockE(max_pool=True, name='Mixed_7c')(x)
    features = jnp.mean(x, axis=(1, 2))
    # Without the biases of the classes, as the Inception Score has always been
    # computed (Salimans et al. 2016, in their code).
    dense = nn.Dense(1008, use_bias=False, precision='highest', name='fc')
    return features, spatial, dense(features)
