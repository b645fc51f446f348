"""The U-Net of the original, parameter for parameter (paper, appendix E)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_distillation.networks import layers


def _linear(logsnr, low, high):
  return (logsnr - low) / (high - low)


def _sigmoid(logsnr, low, high):
  del low, high
  return jax.nn.sigmoid(logsnr)


# The angle of the cosine schedule, as a fraction of pi/2: nearly t itself.
def _inv_cos(logsnr, low, high):
  del low, high
  return jnp.arctan(jnp.exp(-jnp.clip(logsnr, -20, 20) / 2)) / (jnp.pi / 2)


LOGSNR_INPUTS = {'inv_cos': _inv_cos, 'linear': _linear, 'sigmoid': _sigmoid}


DTYPES = ('float32', 'bfloat16', 'float16')


class UNet(nn.Module):
  """A network (x, logsnr, y) -> output, (B, H, W, out_ch) float32.

  Attributes:
    out_ch: output channels.
    num_classes: 1 is unconditional.
    ch: channels of the first level; any even number of at least 4.
    emb_ch: width of the embedding of noise level and class.
    ch_mult: channels of each level, in units of ch; each level halves the size.
    num_res_blocks: residual blocks per level (one more on the way up).
    attn_resolutions: image heights at which attention follows each block; the
      middle always has one.
    num_heads: attention heads; or head_dim, the channels of each.
    head_dim: see num_heads.
    dropout: rate, active where train=True.
    logsnr_input_type: 'inv_cos', 'linear' or 'sigmoid', how the embedding sees
      the noise level.
    logsnr_scale_range: log-SNR at 0 and 1 of the 'linear' input.
    resblock_resample: resample in residual blocks, else by convolutions.
    dtype: of the computation; parameters, head and output are float32.
    remat: recompute the blocks' activations in the gradient: a fifth more
      FLOPs, and a ninth of the memory per example (CIFAR-10's, float32).
  """

  out_ch: int
  num_classes: int = 1
  ch: int = 128
  emb_ch: int = 512
  ch_mult: Sequence[int] = (1, 2, 2)
  num_res_blocks: int = 2
  attn_resolutions: Sequence[int] = (16, 8)
  num_heads: int | None = 1
  head_dim: int | None = None
  dropout: float = 0.0
  logsnr_input_type: str = 'inv_cos'
  logsnr_scale_range: Sequence[float] = (-10.0, 10.0)
  resblock_resample: bool = True
  dtype: str = 'float32'
  remat: bool = False

  @nn.compact
  def __call__(self, x, logsnr, y=None, *, train, dropout_keys=None):
    """Returns the output of the head, (B, H, W, out_ch) float32.

    Args:
      x: (B, H, W, C) noisy images.
      logsnr: (B,) noise levels.
      y: (B,) int class labels, where num_classes > 1.
      train: whether dropout is active.
      dropout_keys: (B,) random keys, which active dropout needs: a mask for
        each example and layer.
    """
    self._check(x)
    dropping = train and self.dropout > 0
    if dropping and dropout_keys is None:
      raise ValueError(
        'train=True with dropout needs dropout_keys, one random key per example'
      )
    keys = dropout_keys if dropping else None
    emb = self._embedding(logsnr, y)
    h, skips = self._down(x, emb, keys)
    h = self._block(h, emb, h.shape[-1], 'mid.block_1', keys)
    h = self._attention(h, 'mid.attn_1')
    h = self._block(h, emb, h.shape[-1], 'mid.block_2', keys)
    h = self._up(h, skips, emb, keys)
    # Float32: it costs little, and x_hat would keep any rounding of the head.
    h = layers.normalize(h.shape[-1], dtype=jnp.float32, name='norm_out')(h)
    return self._conv(
      nn.swish(h),
      self.out_ch,
      'conv_out',
      kernel_init=layers.zeros_init,
      dtype=jnp.float32,
      precision='highest',  # accelerators take fewer digits by default
    )

  def _check(self, x):
    """Raises ValueError where these images or attributes make no network."""
    if self.logsnr_input_type not in LOGSNR_INPUTS:
      known = ', '.join(LOGSNR_INPUTS)
      raise ValueError(
        f'unknown logsnr_input_type {self.logsnr_input_type!r}; known: {known}'
      )
    scale = tuple(self.logsnr_scale_range)
    if len(scale) != 2 or not scale[0] < scale[1]:
      raise ValueError(
        f'logsnr_scale_range must be a smaller and a larger number, got {scale}'
      )
    if self.dtype not in DTYPES:
      known = ', '.join(DTYPES)
      raise ValueError(f'unknown dtype {self.dtype!r}; known: {known}')
    whole = all(isinstance(mult, int) for mult in self.ch_mult)
    if not self.ch_mult or not whole or min(self.ch_mult) < 1:
      raise ValueError(
        f'ch_mult must be one or more positive ints, got {tuple(self.ch_mult)}'
      )
    if self.ch < 4 or self.ch % 2:
      raise ValueError(f'ch must be even and at least 4, got {self.ch}')
    if bool(self.num_heads) == bool(self.head_dim):
      raise ValueError(
        'give either num_heads or head_dim, got '
        f'num_heads={self.num_heads} and head_dim={self.head_dim}'
      )
    factor = 2 ** (len(self.ch_mult) - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(
        f'{x.shape[1]}x{x.shape[2]} images cannot be halved '
        f'{len(self.ch_mult) - 1} times, as ch_mult={tuple(self.ch_mult)} asks'
      )

  def _embedding(self, logsnr, y):
    """Returns the embedding of noise level and class, (B, emb_ch)."""
    position = LOGSNR_INPUTS[self.logsnr_input_type](
      logsnr, *self.logsnr_scale_range
    )
    emb = layers.sinusoidal_embedding(position, self.ch)
    emb = nn.Dense(self.emb_ch, dtype=self.dtype, name='dense0')(emb)
    emb = nn.Dense(self.emb_ch, dtype=self.dtype, name='dense1')(nn.swish(emb))
    if self.num_classes > 1:
      one_hot = jax.nn.one_hot(y, self.num_classes)
      emb += nn.Dense(self.emb_ch, dtype=self.dtype, name='class_emb')(one_hot)
    return emb

  def _down(self, x, emb, keys):
    """Returns the features of the lowest level, and the skips of all."""
    h = self._conv(x.astype(self.dtype), self.ch, 'conv_in')
    skips = [h]
    for level, mult in enumerate(self.ch_mult):
      for block in range(self.num_res_blocks):
        name = f'down_{level}.block_{block}'
        h = self._block(h, emb, self.ch * mult, name, keys)
        if h.shape[1] in self.attn_resolutions:
          h = self._attention(h, f'down_{level}.attn_{block}')
        skips.append(h)
      if level < len(self.ch_mult) - 1:
        h = self._resample(h, emb, f'down_{level}.downsample', keys)
        skips.append(h)
    return h, skips

  def _up(self, h, skips, emb, keys):
    """Returns the features of the highest level; empties `skips`."""
    for level, mult in reversed(list(enumerate(self.ch_mult))):
      for block in range(self.num_res_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        name = f'up_{level}.block_{block}'
        h = self._block(h, emb, self.ch * mult, name, keys)
        if h.shape[1] in self.attn_resolutions:
          h = self._attention(h, f'up_{level}.attn_{block}')
      if level > 0:
        h = self._resample(h, emb, f'up_{level}.upsample', keys)
    return h

  def _resample(self, h, emb, name, keys):
    """Returns h at half or twice its size, which the name tells."""
    down = name.endswith('.downsample')
    if self.resblock_resample:
      way = 'down' if down else 'up'
      return self._block(h, emb, h.shape[-1], name, keys, way)
    strides = (2, 2) if down else (1, 1)
    h = h if down else layers.upsample(h)
    return self._conv(h, h.shape[-1], name, strides=strides)

  def _block(self, h, emb, out_ch, name, keys, resample=None):
    block = self._layer(layers.ResnetBlock)(
      out_ch, self.dropout, resample, dtype=self.dtype, name=name
    )
    return block(h, emb, layers.layer_keys(keys, name))

  def _attention(self, h, name):
    attention = self._layer(layers.AttnBlock)(
      self.num_heads, self.head_dim, dtype=self.dtype, name=name
    )
    return attention(h)

  def _layer(self, module):
    """Returns the module, or its twin that recomputes its activations."""
    return nn.remat(module) if self.remat else module

  def _conv(self, h, features, name, **args):
    args = {'dtype': self.dtype, **args}
    return nn.Conv(features, (3, 3), name=name, **args)(h)
