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


def _inv_cos(logsnr, low, high):
  del low, high
  return layers.inv_cos(logsnr)


LOGSNR_INPUTS = {'inv_cos': _inv_cos, 'linear': _linear, 'sigmoid': _sigmoid}


class UNet(nn.Module):
  """A network (x, logsnr, y) -> output, (B, H, W, out_ch) float32.

  Attributes:
    out_ch: output channels.
    num_classes: number of classes; 1 is unconditional.
    ch: channels of the first level, even and at least 4.
    emb_ch: width of the embedding of noise level and class.
    ch_mult: channels of each level, in units of ch; each level halves the size.
    num_res_blocks: residual blocks per level (one more on the way up).
    attn_resolutions: heights of the levels whose blocks are followed by
      attention; the middle always has it.
    num_heads: attention heads; give either this or head_dim.
    head_dim: channels of each attention head.
    dropout: dropout rate, which applies if train=True.
    logsnr_input_type: 'inv_cos', 'linear' or 'sigmoid': the position in [0, 1]
      by which the noise level is embedded.
    logsnr_scale_range: log-SNR at 0 and 1 of the 'linear' input.
    resblock_resample: resample in residual blocks instead of convolutions.
    dtype: type of the computation; parameters, head and output are float32.
    remat: recompute the activations of blocks in the backward pass: a fifth
      more FLOPs, and a ninth of the memory per example (CIFAR-10, float32).
    norm: 'flax', or 'fused': how residual blocks compute GroupNorm, modulation
      and swish; see `fused_norm.py`.
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
  norm: str = 'flax'

  FREE_ARGS = ('dropout', 'dtype', 'remat', 'norm')

  @nn.compact
  def __call__(self, x, logsnr, y=None, *, train, dropout_keys=None):
    """Returns the output of the head, (B, H, W, out_ch) float32.

    Args:
      x: (B, H, W, C) noisy images.
      logsnr: (B,) noise levels.
      y: the condition, {'label': (B,) int classes}, or the labels alone; it has
        no effect if num_classes is 1. None, or a label of -1, means no class.
      train: whether dropout is active.
      dropout_keys: (B,) random keys, which active dropout needs: a mask for
        each example and layer.
    """
    self.check(x.shape[1:])
    keys = layers.active_keys(self.dropout, train, dropout_keys)
    emb = self._embedding(logsnr, y)
    h, skips = self._down(x, emb, keys)
    h = self._block(h, emb, h.shape[-1], 'mid.block_1', keys)
    h = self._attention(h, 'mid.attn_1')
    h = self._block(h, emb, h.shape[-1], 'mid.block_2', keys)
    h = self._up(h, skips, emb, keys)
    # The head is float32: it costs little, and x_hat keeps any rounding here.
    h = layers.normalize(h.shape[-1], dtype=jnp.float32, name='norm_out')(h)
    return self._conv(
      nn.swish(h),
      self.out_ch,
      'conv_out',
      kernel_init=layers.zeros_init,
      dtype=jnp.float32,
      precision='highest',  # accelerators use fewer digits by default
    )

  def check(self, image_shape):
    """Checks the attributes, alone and with images of (H, W, C).

    Raises:
      ValueError: the attributes do not make a network.
    """
    if self.logsnr_input_type not in LOGSNR_INPUTS:
      known = ', '.join(LOGSNR_INPUTS)
      raise ValueError(
        f'unknown logsnr_input_type {self.logsnr_input_type!r}; known: {known}'
      )
    if self.norm not in layers.NORMS:
      known = ', '.join(layers.NORMS)
      raise ValueError(f'unknown norm {self.norm!r}; known: {known}')
    scale = tuple(self.logsnr_scale_range)
    if len(scale) != 2 or not scale[0] < scale[1]:
      raise ValueError(
        f'logsnr_scale_range must be a smaller and a larger number, got {scale}'
      )
    layers.check_attributes(
      self, ('ch', 'emb_ch', 'num_res_blocks', 'num_heads', 'head_dim')
    )
    ch_mult = tuple(self.ch_mult)
    if not ch_mult or min(ch_mult) < 1:
      raise ValueError(f'ch_mult must be positive ints, got {ch_mult}')
    if self.ch < 4 or self.ch % 2:
      raise ValueError(f'ch must be even and at least 4, got {self.ch}')
    if bool(self.num_heads) == bool(self.head_dim):
      raise ValueError(
        'give either num_heads or head_dim, got '
        f'num_heads={self.num_heads} and head_dim={self.head_dim}'
      )
    height, width = image_shape[:2]
    factor = 2 ** (len(ch_mult) - 1)
    if height % factor or width % factor:
      raise ValueError(
        f'{height}x{width} images cannot be halved {len(ch_mult) - 1} times, '
        f'as ch_mult={ch_mult} asks'
      )
    heights = [height // 2**level for level in range(len(ch_mult))]
    for resolution in self.attn_resolutions:
      if resolution not in heights:
        # Without this check, the attention would be left out silently.
        raise ValueError(
          f'attn_resolutions={tuple(self.attn_resolutions)}: no level of '
          f'{height}x{width} images is {resolution} pixels high; the levels '
          f'are {", ".join(map(str, heights))}'
        )
    attending = [
      self.ch * mult
      for mult, level_height in zip(ch_mult, heights, strict=True)
      if level_height in self.attn_resolutions
    ]
    for channels in (*attending, self.ch * ch_mult[-1]):
      layers.attention_heads(channels, self.num_heads, self.head_dim)

  def _embedding(self, logsnr, y):
    """Returns the embedding of noise level and class, (B, emb_ch)."""
    position = LOGSNR_INPUTS[self.logsnr_input_type](
      logsnr, *self.logsnr_scale_range
    )
    emb = layers.sinusoidal_embedding(position, self.ch)
    emb = nn.Dense(self.emb_ch, dtype=self.dtype, name='dense0')(emb)
    emb = nn.Dense(self.emb_ch, dtype=self.dtype, name='dense1')(nn.swish(emb))
    if self.num_classes > 1:
      one_hot = layers.one_hot_labels(y, len(logsnr), self.num_classes)
      emb += nn.Dense(self.emb_ch, dtype=self.dtype, name='class_emb')(one_hot)
    return emb

  def _down(self, x, emb, keys):
    """Returns the features of the last level, and the skips of all levels."""
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
    """Returns the features of the first level; pops all `skips`."""
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
    """Returns h at half or twice its size, depending on the name."""
    down = name.endswith('.downsample')
    if self.resblock_resample:
      way = 'down' if down else 'up'
      return self._block(h, emb, h.shape[-1], name, keys, way)
    strides = (2, 2) if down else (1, 1)
    h = h if down else layers.upsample(h)
    return self._conv(h, h.shape[-1], name, strides=strides)

  def _block(self, h, emb, out_ch, name, keys, resample=None):
    block = self._layer(layers.ResnetBlock)(
      out_ch,
      self.dropout,
      resample,
      dtype=self.dtype,
      norm=self.norm,
      name=name,
    )
    return block(h, emb, layers.layer_keys(keys, name))

  def _attention(self, h, name):
    attention = self._layer(layers.AttnBlock)(
      self.num_heads, self.head_dim, dtype=self.dtype, name=name
    )
    return attention(h)

  def _layer(self, module):
    """Returns the module, or the version that recomputes activations."""
    return nn.remat(module) if self.remat else module

  def _conv(self, h, features, name, **args):
    args = {'dtype': self.dtype, **args}
    return nn.Conv(features, (3, 3), name=name, **args)(h)
