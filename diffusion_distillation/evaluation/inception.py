"""Inception v3 as FID uses it: the network, its input and its weights."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import softmax

from diffusion_distillation.evaluation.inception_weights import read_weights
from diffusion_distillation.evaluation.statistics import Activations

_SIZE = 299  # height and width of the network's input


class Inception:
  """Computes the activations of images that FID and its relatives compare.

  The network is Inception v3 of 2015-12-05: `features` (N, 2048) are 'pool_3',
  `spatial` (N, 2023) is 7 channels of 17 x 17 pixels, and there are 1008
  classes.

  Attributes:
    name: name of the features.
    description: the same, for the protocol.
    label: name of Frechet distances between these features.
    num_features: number of features.
    checksum: SHA-256 of the file of weights, in hexadecimal.
    resize: name of the resizing rule.
  """

  name = description = 'inception-2015-12-05'
  label = 'FID'
  num_features = 2048

  def __init__(self, path, resize='tf1', batch_size=64):
    """Reads the weights.

    Args:
      path: pytorch-fid's `.pth`, or a `.npz` with the same names.
      resize: a name in RESIZES.
      batch_size: images per batch on each device.

    Raises:
      UserError: the file is missing or does not hold this network.
      ValueError: the rule is unknown.
    """
    if resize not in RESIZES:
      raise ValueError(
        f'unknown resizing rule {resize!r}; known: {", ".join(RESIZES)}'
      )
    self.resize = resize
    weights, self.checksum = read_weights(path, weight_shapes())
    params = traverse_util.unflatten_dict(_fold(weights), sep='.')

    devices = jax.local_devices()
    mesh = Mesh(devices, ('batch',))
    self._split = NamedSharding(mesh, PartitionSpec('batch'))
    self._variables = jax.device_put(
      {'params': params}, NamedSharding(mesh, PartitionSpec())
    )
    self._batch_size = batch_size * len(devices)
    # Two programs, so that the network, which takes long to compile, is
    # compiled once for all image sizes.
    self._prepare = jax.jit(functools.partial(_prepare, RESIZES[resize]))
    self._apply = jax.jit(InceptionNetwork().apply)

  def __call__(self, images):
    """Returns the Activations of images, float32.

    Args:
      images: (N, H, W, C) uint8, with N of 1 or more and C of 1 or 3.

    Raises:
      ValueError: the images have another shape or type.
    """
    shape, dtype = images.shape, images.dtype
    if (
      dtype != np.uint8
      or len(shape) != 4
      or shape[0] < 1
      or shape[-1] not in (1, 3)
    ):
      raise ValueError(
        'Inception takes uint8 images (N, H, W, C) with N >= 1 and C of 1 or '
        f'3; got {dtype} {shape}'
      )
    starts = range(0, len(images), self._batch_size)
    parts = [self._batch(images[i : i + self._batch_size]) for i in starts]
    return Activations(*map(np.concatenate, zip(*parts, strict=True)))

  def _batch(self, images):
    """Returns the Activations of at most one batch of images."""
    padded = np.resize(images, (self._batch_size, *images.shape[1:]))
    x = self._prepare(jax.device_put(padded, self._split))
    out = self._apply(self._variables, x)
    features, spatial, logits = (np.asarray(y)[: len(images)] for y in out)
    return Activations(
      features, spatial.reshape(len(images), -1), softmax(logits, axis=-1)
    )


def _prepare(rule, images):
  """Returns the network's input (B, 299, 299, 3) for uint8 images."""
  x = rule(images.astype(jnp.float32))
  return jnp.broadcast_to(x, (*x.shape[:3], 3))  # grey images to three channels


def prepare_tf1(images):
  """Resizes images to 299 x 299 as TensorFlow 1 did, for the original FID.

  Output pixel i is taken from input pixel i H / 299, corners aligned, and grey
  levels become (x - 128) / 128. EDM, StyleGAN and ADM measure FID this way.

  Args:
    images: (B, H, W, C) float32, 0 to 255.
  """
  return (_bilinear(images, 0.0) - 128) / 128


def prepare_pytorch(images):
  """Resizes images to 299 x 299 as pytorch-fid does.

  Output pixel i is taken from input pixel (i + 1/2) H / 299 - 1/2, centres
  aligned, as in PyTorch's interpolate(align_corners=False), and grey levels
  become x / 127.5 - 1.

  Args:
    images: (B, H, W, C) float32, 0 to 255.
  """
  return _bilinear(images, 0.5) / 127.5 - 1


def _bilinear(images, center):
  """Returns images (B, 299, 299, C), bilinear without antialiasing.

  Args:
    images: (B, H, W, C) float32.
    center: the point of a pixel, from 0 to 1, that keeps its relative place.
  """
  for axis in (2, 1):
    size = images.shape[axis]
    pixels = np.arange(_SIZE, dtype=np.float32)
    source = (pixels + center) * np.float32(size / _SIZE) - center
    source = np.maximum(source, 0).astype(np.float32)
    low = source.astype(int)
    high = np.minimum(low + 1, size - 1)
    shape = [-1 if i == axis else 1 for i in range(images.ndim)]
    weight = (source - low.astype(np.float32)).reshape(shape)
    below = jnp.take(images, low, axis)
    images = below + (jnp.take(images, high, axis) - below) * weight
  return images


# The rules of `eval.resize`. The features differ so much that statistics of one
# rule must not be compared with statistics of the other.
RESIZES = {'tf1': prepare_tf1, 'pytorch': prepare_pytorch}


def weight_shapes():
  """Returns a dict of the names and shapes of all arrays of the weights."""
  image = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
  init = InceptionNetwork().init
  params = jax.eval_shape(init, jax.random.key(0), image)['params']
  params = traverse_util.flatten_dict(params, sep='.')
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
  """Returns the network's parameters, batch norms folded into convolutions."""
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


_avg_pool = functools.partial(
  nn.avg_pool, window_shape=(3, 3), padding='SAME', count_include_pad=False
)
_max_pool = functools.partial(nn.max_pool, window_shape=(3, 3))
_halve = functools.partial(_max_pool, strides=(2, 2))


def _conv(x, name, out_ch, size=1, stride=1, padding='SAME'):
  """Returns relu(conv(x)); `size` is an int or (height, width)."""
  size = (size, size) if isinstance(size, int) else size
  # 'highest' rules out TF32 and bfloat16 on accelerators, since FID is compared
  # with that of other programs to three digits.
  layer = nn.Conv(
    out_ch, size, stride, padding=padding, precision='highest', name=name
  )
  return nn.relu(layer(x))


_halving_conv = functools.partial(_conv, size=3, stride=2, padding='VALID')


def _chain(x, name, *layers):
  """Applies convolutions name_1, name_2, ..., each given by (out_ch, size)."""
  for number, (out_ch, size) in enumerate(layers, 1):
    x = _conv(x, f'{name}_{number}', out_ch, size)
  return x


def _join(*branches):
  return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
  """Works at 35 x 35 pixels with kernels of 1, of 5 and of 3 twice."""

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
  """Goes from 35 x 35 to 17 x 17 pixels."""

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
  """Works at 17 x 17 pixels with kernels of 1 x 7 and 7 x 1."""

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
  """Goes from 17 x 17 to 8 x 8 pixels."""

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
  """Works at 8 x 8 pixels with kernels of 1 x 3 and 3 x 1, side by side."""

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


class InceptionNetwork(nn.Module):
  """Inception v3 of TensorFlow's graph of 2015-12-05.

  Szegedy et al. 2015 (arXiv 1512.00567). Later versions differ: in this one,
  average pools leave the padding out of the mean, the last block has a max
  pool, and there are 1008 classes. Batch norms are folded into the
  convolutions. Layers are named as in pytorch-fid's file of weights.
  """

  @nn.compact
  def __call__(self, x):
    """Computes features (B, 2048), spatial (B, 17, 17, 7), logits (B, 1008).

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
    # sFID's 'mixed_6/conv:0' in TensorFlow is the first branch of this block.
    spatial = x[..., :7]
    x = BlockC(192, name='Mixed_6e')(x)
    x = BlockD(name='Mixed_7a')(x)  # (B, 8, 8, 1280)
    x = BlockE(max_pool=False, name='Mixed_7b')(x)
    x = BlockE(max_pool=True, name='Mixed_7c')(x)
    features = jnp.mean(x, axis=(1, 2))
    # The code of Salimans et al. 2016 leaves out the biases of the classes, and
    # the Inception Score has been computed that way since.
    dense = nn.Dense(1008, use_bias=False, precision='highest', name='fc')
    return features, spatial, dense(features)
