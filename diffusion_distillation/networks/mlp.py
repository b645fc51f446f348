"""A multilayer perceptron on all pixels at once, for tiny images and tests."""

import flax.linen as nn
import jax.numpy as jnp

from diffusion_distillation.networks import layers


class MLP(nn.Module):
  """A network (z, logsnr, condition) -> output, (B, H, W, out_ch) float32.

  It compiles in less than a second.

  Attributes:
    out_ch: output channels.
    num_classes: number of classes; 1 is unconditional.
    width: width of the hidden layers.
    depth: number of hidden layers.
    dropout: dropout rate, which applies if train=True.
    dtype: type of the computation; parameters and output are float32.
  """

  out_ch: int
  num_classes: int = 1
  width: int = 64
  depth: int = 2
  dropout: float = 0.0
  dtype: str = 'float32'

  FREE_ARGS = ('dropout', 'dtype')

  def check(self, image_shape):
    """Raises ValueError if the attributes do not make a network."""
    del image_shape  # all sizes are possible
    layers.check_attributes(self, ('width', 'depth'))

  @nn.compact
  def __call__(self, z, logsnr, condition=None, *, train, dropout_keys=None):
    """Returns the output of the head, (B, H, W, out_ch) float32.

    Args:
      z: (B, H, W, C) noisy images.
      logsnr: (B,) noise levels.
      condition: {'label': (B,) int32}, or None.
      train: whether dropout is active.
      dropout_keys: (B,) random keys, which active dropout needs.
    """
    keys = layers.active_keys(self.dropout, train, dropout_keys)
    level = layers.sinusoidal_embedding(layers.inv_cos(logsnr), 32)
    h = jnp.concatenate([z.reshape(len(z), -1), level], axis=-1)
    if self.num_classes > 1:
      one_hot = layers.one_hot_labels(condition, len(z), self.num_classes)
      h = jnp.concatenate([h, one_hot], axis=-1)
    for i in range(self.depth):
      name = f'hidden_{i}'
      h = nn.swish(nn.Dense(self.width, dtype=self.dtype, name=name)(h))
      h = layers.dropout(h, self.dropout, layers.layer_keys(keys, name))
    size = z.shape[1] * z.shape[2] * self.out_ch
    h = nn.Dense(size, kernel_init=layers.zeros_init, name='out')(h)
    return h.astype(jnp.float32).reshape(*z.shape[:3], self.out_ch)
