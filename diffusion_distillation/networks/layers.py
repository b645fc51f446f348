"""The layers of the U-Net, with the original's parameter names."""

import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_distillation.networks.fused_norm import fused_norm

zeros_init = nn.initializers.zeros_init()
DTYPES = ('float32', 'bfloat16', 'float16')
NORMS = ('flax', 'fused')
_MAX_SIZE = 2**16  # a larger layer is assumed to be a mistake


def normalize(channels, *, dtype, name):
  """Returns a GroupNorm of 32 groups, or of fewer that divide the channels."""
  return nn.GroupNorm(num_groups(channels), dtype=dtype, name=name)


def num_groups(channels):
  """Returns the number of groups of a GroupNorm of these channels."""
  return math.gcd(32, channels)


class FusedNorm(nn.Module):
  """GroupNorm, modulation and swish in one, with GroupNorm's parameters."""

  @nn.compact
  def __call__(self, x, scale=None, shift=None):
    """Returns swish(GroupNorm(x) * (1 + scale) + shift), like x (B, H, W, C).

    Args:
      x: features.
      scale: (B, 1, 1, C), or None for no modulation.
      shift: like scale.
    """
    channels = x.shape[-1:]
    gamma = self.param('scale', nn.initializers.ones_init(), channels)
    beta = self.param('bias', zeros_init, channels)
    if scale is not None:
      scale, shift = (jnp.squeeze(a, (1, 2)) for a in (scale, shift))
    groups = num_groups(*channels)
    return fused_norm(x, gamma, beta, scale, shift, groups=groups)


def norm_swish(x, norm, scale=None, shift=None, *, dtype, name):
  """Returns swish(GroupNorm(x) * (1 + scale) + shift), a layer of a module.

  Args:
    x: (B, H, W, C).
    norm: 'flax', layer by layer, or 'fused', which computes in x's type.
    scale: (B, 1, 1, C), or None for no modulation.
    shift: like scale.
    dtype: type of the computation.
    name: name of the GroupNorm and its parameters.
  """
  if norm == 'fused':
    return FusedNorm(name=name)(x, scale, shift)
  h = normalize(x.shape[-1], dtype=dtype, name=name)(x)
  return nn.swish(h if scale is None else h * (1 + scale) + shift)


def sinusoidal_embedding(position, width):
  """Returns sines and cosines of positions in [0, 1], (B, width) float32.

  Args:
    position: (B,) float32.
    width: even, at least 4.
  """
  # Frequencies 1000 ... 0.1, as a Transformer has them for 1000 integer steps.
  half = width // 2
  frequencies = 1000 * jnp.exp(
    jnp.arange(half, dtype=jnp.float32) * (-math.log(10000) / (half - 1))
  )
  angles = position[:, None] * frequencies[None, :]  # (B, width / 2)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


# The position is the angle of the cosine schedule divided by pi/2, nearly t.
def inv_cos(logsnr):
  """Returns the noise level as a position in [0, 1], (B,)."""
  return jnp.arctan(jnp.exp(-jnp.clip(logsnr, -20, 20) / 2)) / (jnp.pi / 2)


def one_hot_labels(condition, batch_size, num_classes):
  """Returns one-hot labels, (B, num_classes); all zeros if there is no label.

  Args:
    condition: {'label': (B,) int}, or (B,) int labels, or None; a label of -1
      means no class.
    batch_size: B.
    num_classes: number of classes of the network.
  """
  if isinstance(condition, Mapping):
    condition = condition.get('label')
  if condition is None:
    return jnp.zeros((batch_size, num_classes))
  return jax.nn.one_hot(condition, num_classes)


def check_attributes(network, sizes):
  """Checks the attributes that all networks have, and some sizes.

  Args:
    network: a module with attributes `dropout` and `dtype`.
    sizes: names of attributes that are positive ints, or None.

  Raises:
    ValueError: an attribute is out of range.
  """
  for name in sizes:
    value = getattr(network, name)
    if value is not None and not 1 <= value <= _MAX_SIZE:
      raise ValueError(
        f'model.args.{name} must be 1 to {_MAX_SIZE}, got {value}'
      )
  if not 0 <= network.dropout < 1:
    raise ValueError(
      f'model.args.dropout must be at least 0 and below 1, got '
      f'{network.dropout}'
    )
  if network.dtype not in DTYPES:
    known = ', '.join(DTYPES)
    raise ValueError(f'unknown dtype {network.dtype!r}; known: {known}')


def active_keys(rate, train, dropout_keys):
  """Returns the random keys of dropout, or None if dropout is not active.

  Raises:
    ValueError: dropout is active and there are no keys.
  """
  if not train or rate == 0:
    return None
  if dropout_keys is None:
    raise ValueError(
      'train=True with dropout needs dropout_keys, one random key per example'
    )
  return dropout_keys


def upsample(x):
  """Returns x (B, H, W, C) at twice the size, by nearest neighbour."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def downsample(x):
  """Returns x (B, H, W, C) at half the size, by means of 2 x 2."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return jnp.mean(x, axis=(2, 4))


def layer_keys(keys, layer):
  """Returns the random keys of one layer, (B,), folded from the network's.

  Args:
    keys: (B,) random keys; None stays None.
    layer: name of the layer, unique in the network.
  """
  if keys is None:
    return None
  number = zlib.crc32(layer.encode())
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def dropout(x, rate, keys):
  """Returns x with values set to 0 at `rate`, and the others scaled up.

  The mask of an example is drawn from its own key, so it does not depend on the
  batch or the device. It takes 16 random bits per value, half of those of
  `jax.random.bernoulli`, so the rate is a multiple of 2^-16.

  Args:
    x: (B, ...).
    rate: probability that a value becomes 0, below 1.
    keys: (B,) random keys; None drops nothing.
  """
  if keys is None:
    return x
  # At least one value in 2^16 is kept, so that the scale is finite.
  dropped = min(round(rate * 2**16), 2**16 - 1)
  shape = x.shape[1:]
  size = math.prod(shape)

  def kept(key):
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    return halves.reshape(-1)[:size].reshape(shape) >= dropped

  return jnp.where(jax.vmap(kept)(keys), x * (2**16 / (2**16 - dropped)), 0)


RESAMPLE = {None: lambda x: x, 'up': upsample, 'down': downsample}


class ResnetBlock(nn.Module):
  """Two convolutions, modulated by the embedding, and a skip connection.

  Resampling comes after the first norm and on the skip (BigGAN style).
  """

  out_ch: int
  dropout: float
  resample: str | None = None
  dtype: Any = jnp.float32
  norm: str = 'flax'

  @nn.compact
  def __call__(self, x, emb, dropout_keys):
    """Returns (B, H', W', out_ch) of x (B, H, W, C) and emb (B, emb_ch).

    Args:
      x: features.
      emb: embedding of noise level and class.
      dropout_keys: (B,) random keys; None drops nothing.
    """
    resample = RESAMPLE[self.resample]
    in_ch = x.shape[-1]

    h = norm_swish(x, self.norm, dtype=self.dtype, name='norm1')
    h = nn.Conv(self.out_ch, (3, 3), dtype=self.dtype, name='conv1')(
      resample(h)
    )

    temb = nn.Dense(2 * self.out_ch, dtype=self.dtype, name='temb_proj')(
      nn.swish(emb)
    )
    scale, shift = jnp.split(temb[:, None, None, :], 2, axis=-1)
    h = norm_swish(h, self.norm, scale, shift, dtype=self.dtype, name='norm2')
    h = dropout(h, self.dropout, dropout_keys)
    h = nn.Conv(
      self.out_ch,
      (3, 3),
      kernel_init=zeros_init,
      dtype=self.dtype,
      name='conv2',
    )(h)

    x = resample(x)
    if in_ch != self.out_ch:
      x = nn.Dense(self.out_ch, dtype=self.dtype, name='nin_shortcut')(x)
    return x + h


def attention_implementation(device, dtype, pixels, head_dim):
  """Returns the implementation of attention to use: 'cudnn' or 'xla'.

  cuDNN's fused attention never stores the pixels x pixels matrix, but supports
  some types and sizes only. It needs 16-bit types and compute capability 8.0 or
  higher. With a gradient, heads may have up to 128 channels, or up to 256 on
  Hopper (9.x). Its tiles have 64 pixels; other sizes have failed in some
  versions.

  Args:
    device: one of the jax.Devices in use.
    dtype: type of the query.
    pixels: sequence length.
    head_dim: channels of a head.
  """
  # Other devices have no capability, and that of AMD's GPUs has another form.
  capability = str(getattr(device, 'compute_capability', ''))
  major = re.fullmatch(r'(\d+)\.\d+', capability)
  if device.platform not in ('gpu', 'cuda') or major is None:
    return 'xla'
  if int(major[1]) < 8 or dtype not in (jnp.bfloat16, jnp.float16):
    return 'xla'
  largest = 256 if int(major[1]) == 9 else 128
  fits = head_dim % 8 == 0 and head_dim <= largest and pixels % 64 == 0
  return 'cudnn' if fits else 'xla'


def attention_heads(channels, num_heads, head_dim):
  """Returns the number of attention heads of a layer.

  Raises:
    ValueError: the channels cannot be split into heads of equal size.
  """
  heads = num_heads or max(1, channels // head_dim)
  if channels % heads or (head_dim and channels % head_dim):
    raise ValueError(
      f'{channels} channels cannot be split into attention heads '
      f'(num_heads={num_heads}, head_dim={head_dim})'
    )
  return heads


class AttnBlock(nn.Module):
  """Self-attention over the pixels, with a skip connection."""

  num_heads: int | None = None
  head_dim: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """Returns x (B, H, W, C) plus the attention over its pixels."""
    batch, height, width, channels = x.shape
    heads = attention_heads(channels, self.num_heads, self.head_dim)
    head_dim = channels // heads

    h = normalize(channels, dtype=self.dtype, name='norm')(x)
    h = h.reshape(batch, height * width, channels)  # (B, H*W, C)
    q, k, v = (
      nn.DenseGeneral((heads, head_dim), dtype=self.dtype, name=name)(h)
      for name in ('q', 'k', 'v')
    )  # (B, H*W, heads, head_dim)
    implementation = attention_implementation(
      jax.devices()[0], q.dtype, q.shape[1], head_dim
    )
    h = jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    h = nn.DenseGeneral(
      channels,
      axis=(-2, -1),
      kernel_init=zeros_init,
      dtype=self.dtype,
      name='proj_out',
    )(h)
    return x + h.reshape(x.shape)
