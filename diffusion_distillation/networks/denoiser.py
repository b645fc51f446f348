"""The seam between networks and mathematics: denoise(z, logsnr) -> x_hat."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_distillation.core import parameterization
from diffusion_distillation.networks.mlp import MLP
from diffusion_distillation.networks.unet import UNet
from diffusion_distillation.runtime.arguments import check_arguments

# name (`model.name` of a config) -> a Flax module. Its attributes are `out_ch`
# and `num_classes`, which the data and the head determine, and the arguments in
# `model.args`, among them `dropout` and `dtype`. FREE_ARGS names the arguments
# that change neither its parameters nor what they mean; with their defaults it
# computes in float32, and `jax.jvp` can differentiate it. It has a method
# check(image_shape), which raises ValueError if the attributes do not fit the
# images, and is called as module(z, logsnr, condition, train=...,
# dropout_keys=...) -> (B, H, W, out_ch) float32; the condition may be None.
NETWORKS = {'unet_iddpm': UNet, 'mlp': MLP}
# Attributes that `build_denoiser` sets, and those of every Flax module.
_NOT_ARGUMENTS = ('out_ch', 'num_classes', 'parent', 'name')


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A network together with the head that makes its output x_hat.

  Attributes:
    network: a module of NETWORKS.
    mean_type: the head, a name in `parameterization.HEADS`.
    image_shape: (H, W, C).
  """

  network: nn.Module
  mean_type: str
  image_shape: tuple[int, int, int]

  def init(self, key):
    """Returns random initial parameters, float32."""
    z = jnp.zeros((1, *self.image_shape))
    # The values of the condition do not matter, so None suits any network.
    variables = self.network.init(key, z, jnp.zeros((1,)), None, train=False)
    return variables['params']

  def param_shapes(self):
    """Returns the parameters as ShapeDtypeStructs; computes nothing."""
    return _param_shapes(self)

  def plain(self):
    """Returns a Denoiser of the same function that has `jax.jvp`, in float32.

    The kernels of the fused norm and of cuDNN's attention have no such
    derivative.
    """
    defaults = {
      field.name: field.default
      for field in dataclasses.fields(self.network)
      if field.name in self.network.FREE_ARGS and field.name != 'dropout'
    }
    return dataclasses.replace(self, network=self.network.clone(**defaults))

  def bind(self, params, condition, dropout_keys=None):
    """Returns denoise(z, logsnr) -> x_hat with these parameters.

    Args:
      params: parameters of the network.
      condition: what the images are to show, passed to the network unchanged:
        {'label': (B,) int32 classes}, or None for the unconditional input.
      dropout_keys: (B,) random keys activate dropout, with a mask for each
        example that does not depend on the batch or the device; None is
        inference.
    """

    def denoise(z, logsnr):
      output = self.network.apply(
        {'params': params},
        parameterization.network_input(self.mean_type, z, logsnr),
        logsnr,
        condition,
        train=dropout_keys is not None,
        dropout_keys=dropout_keys,
      )
      return parameterization.predict_x(self.mean_type, output, z, logsnr)

    return denoise


@functools.lru_cache(8)
def _param_shapes(denoiser):
  # Tracing a large network takes seconds, and this is called in many places.
  return jax.eval_shape(denoiser.init, jax.random.key(0))


def build_denoiser(model, image_shape, num_classes):
  """Returns the Denoiser that a config or a checkpoint's card describes.

  Args:
    model: mapping with 'name', 'mean_type' and 'args'.
    image_shape: (H, W, C).
    num_classes: number of classes; 1 is unconditional.

  Raises:
    ValueError: the network, an argument or the head is unknown, an argument has
      another type, or the network does not accept it or the size of the images.
  """
  name = model['name']
  mean_type = parameterization.canonical(model['mean_type'])
  if name not in NETWORKS:
    known = ', '.join(NETWORKS)
    raise ValueError(f'unknown network model.name={name!r}; known: {known}')
  check_arguments(NETWORKS[name], model['args'], 'model.args.', _NOT_ARGUMENTS)
  # JSON has lists for tuples, which would not be hashable.
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in model['args'].items()
  }
  channels = parameterization.get_head(mean_type).output_channels
  network = NETWORKS[name](
    out_ch=channels * image_shape[-1], num_classes=num_classes, **args
  )
  network.check(tuple(image_shape))
  return Denoiser(network, mean_type, tuple(image_shape))
