"""Inception v3 as it is used to measure images: the FID variant, in Flax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import softmax

from diffusion_distillation.evaluation.inception_network import Network
from diffusion_distillation.evaluation.inception_weights import read_weights

_SIZE = 299  # pixels, of the network's input


class Activations(NamedTuple):
  """What the network says of N images, float32."""

  features: np.ndarray  # (N, 2048), pool_3
  spatial: np.ndarray  # (N, 2023), 7 channels of 17 x 17, for sFID
  probabilities: np.ndarray  # (N, 1008)


class Inception:
  """Inception v3 of 2015-12-05, the network of FID and the Inception Score.

  Attributes:
    name: what the features are called in a report.
    num_features: how many there are.
    checksum: SHA-256 of the file of weights, in hexadecimal.
  """

  name = 'inception-2015-12-05'
  num_features = 2048

  def __init__(self, path, batch_size=64):
    """Reads the weights.

    Args:
      path: pytorch-fid's `.pth`, or a `.npz` of the same names; None is told
        where to get it.
      batch_size: images at once on each device.

    Raises:
      UserError: there is no such file, or it does not hold this network.
    """
    weights, self.checksum = read_weights(path, weight_shapes())
    params = traverse_util.unflatten_dict(_fold(weights), sep='.')

    devices = jax.local_devices()
    mesh = Mesh(devices, ('batch',))
    self._split = NamedSharding(mesh, PartitionSpec('batch'))
    self._variables = jax.device_put(
      {'params': params}, NamedSharding(mesh, PartitionSpec())
    )
    self._batch_size = batch_size * len(devices)
    # Two programs: what is long to compile does not depend on the image size.
    self._prepare, self._apply = jax.jit(_prepare), jax.jit(Network().apply)

  def __call__(self, images):
    """Returns the Activations of images.

    Args:
      images: (N, H, W, C) uint8, N of 1 or more, C of 1 or 3.

    Raises:
      ValueError: they are not.
    """
    shape, dtype = images.shape, images.dtype
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3):
      raise ValueError(
        'Inception takes uint8 images (N, H, W, C), C of 1 or 3; got '
        f'{dtype} {shape}'
      )
    if not len(images):
      raise ValueError('Inception got no images; give one or more')
    starts = range(0, len(images), self._batch_size)
    parts = [self._batch(images[i : i + self._batch_size]) for i in starts]
    return Activations(*map(np.concatenate, zip(*parts, strict=True)))

  def _batch(self, images):
    """Returns the Activations of at most a batch of images."""
    padded = np.resize(images, (self._batch_size, *images.shape[1:]))
    x = self._prepare(jax.device_put(padded, self._split))
    out = self._apply(self._variables, x)
    features, spatial, logits = (np.asarray(y)[: len(images)] for y in out)
    return Activations(
      features, spatial.reshape(len(images), -1), softmax(logits, axis=-1)
    )


def _prepare(images):
  """Returns the network's input (B, 299, 299, 3) of uint8 images."""
  x = (resize(images.astype(jnp.float32)) - 128) / 128
  return jnp.broadcast_to(x, (*x.shape[:3], 3))  # grey becomes three times grey


def resize(images):
  """Returns images (B, H, W, C) float32 at 299 x 299, as TensorFlow 1 did it.

  Bilinear between the pixels i H / 299 and the next: a pixel's place is that of
  its corner, and nothing is averaged where the image shrinks. The graph of the
  original FID resizes so, and other ways change FID.
  """
  return _resize_axis(_resize_axis(images, 2), 1)


def _resize_axis(x, axis):
  size = x.shape[axis]
  source = np.arange(_SIZE, dtype=np.float32) * np.float32(size / _SIZE)
  low = source.astype(int)
  high = np.minimum(low + 1, size - 1)
  shape = [-1 if i == axis else 1 for i in range(x.ndim)]
  weight = (source - low.astype(np.float32)).reshape(shape)
  below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
  return below + (above - below) * weight


def weight_shapes():
  """Returns the name and shape of each array that a file of weights holds."""
  image = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
  variables = jax.eval_shape(Network().init, jax.random.key(0), image)
  params = traverse_util.flatten_dict(variables['params'], sep='.')
  features, classes = params.pop('fc.kernel').shape
  shapes = {'fc.weight': (classes, features), 'fc.bias': (classes,)}
  for path, leaf in params.items():
    layer, _, kind = path.rpartition('.')
    if kind == 'kernel':
      height, width, in_ch, out_ch = leaf.shape
      shapes[f'{layer}.conv.weight'] = (out_ch, in_ch, height, width)
    else:
      for name in ('weight', 'bias', 'running_mean', 'running_var'):
        shapes[f'{layer}.bn.{name}'] = leaf.shape
  return shapes


def _fold(weights):
  """Returns the network's parameters; batch norms go into convolutions."""
  params = {'fc.kernel': weights['fc.weight'].T}
  for name, kernel in weights.items():
    layer, is_conv, _ = name.partition('.conv.')
    if is_conv:
      scale, offset, mean, variance = (
        weights[f'{layer}.bn.{kind}'].astype(np.float64)
        for kind in ('weight', 'bias', 'running_mean', 'running_var')
      )
      scale /= np.sqrt(variance + 0.001)
      folded = kernel.transpose(2, 3, 1, 0) * scale
      params[f'{layer}.kernel'] = folded.astype(np.float32)
      params[f'{layer}.bias'] = (offset - mean * scale).astype(np.float32)
  return params
