"""The seam between networks and mathematics: denoise(z, logsnr) -> x_hat."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_distillation.core import parameterization
from diffusion_distillation.networks.unet import UNet


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A network, and what its output means.

  Attributes:
    network: .apply({'params': p}, x, logsnr, y, train=..., dropout_keys=...)
      -> output.
    mean_type: the head, 'x', 'eps', 'v' or 'both'.
    image_shape: (H, W, C).
  """

  network: nn.Module
  mean_type: str
  image_shape: tuple[int, int, int]

  def init(self, key):
    """Returns fresh parameters, float32."""
    z = jnp.zeros((1, *self.image_shape))
    logsnr, labels = jnp.zeros((1,)), jnp.zeros((1,), jnp.int32)
    return self.network.init(key, z, logsnr, labels, train=False)['params']

  def param_shapes(self):
    """Returns the parameters as ShapeDtypeStructs; computes nothing."""
    return _param_shapes(self)

  def bind(self, params, labels, dropout_keys=None):
    """Returns denoise(z, logsnr) -> x_hat of these parameters.

    Args:
      params: of the network.
      labels: (B,) int32 classes.
      dropout_keys: (B,) random keys make dropout active, one mask per example
        whatever the device it is on; None is inference.
    """

    def denoise(z, logsnr):
      output = self.network.apply(
        {'params': params},
        z,
        logsnr,
        labels,
        train=dropout_keys is not None,
        dropout_keys=dropout_keys,
      )
      return parameterization.x_hat(self.mean_type, output, z, logsnr)

    return denoise


@functools.lru_cache(8)
def _param_shapes(denoiser):
  # Tracing a large network takes seconds, and many ask.
  return jax.eval_shape(denoiser.init, jax.random.key(0))


def build_denoiser(model, image_shape, num_classes):
  """Returns the Denoiser that a config or a checkpoint's card describes.

  Args:
    model: mapping with 'mean_type' and 'args', the UNet's arguments.
    image_shape: (H, W, C).
    num_classes: 1 is unconditional.

  Raises:
    ValueError: a name or size that no network has.
  """
  mean_type = model['mean_type']
  out_ch = parameterization.output_channels(mean_type, image_shape[-1])
  # A card has lists for tuples, which would not be hashable.
  args = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in model['args'].items()
  }
  network = UNet(out_ch=out_ch, num_classes=num_classes, **args)
  return Denoiser(network, mean_type, tuple(image_shape))
