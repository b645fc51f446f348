"""Turns image files into square uint8 images: decode, crop, resize.

A resize is linear and separable: weighted sums along the rows, then along the
columns. Two methods are offered, which equal those of TensorFlow up to float32
rounding:

* 'area' averages the source pixels that a target pixel covers:
  `tf.image.resize(method='area')`.
* 'antialias' is bilinear interpolation whose triangle is widened to a target
  pixel when shrinking: `tf.image.resize(method='bilinear', antialias=True)`.
"""

import contextlib
import functools
import io

import numpy as np
import PIL
from PIL import Image, ImageOps

from diffusion_distillation.runtime.errors import UserError


def decode(data, name, *, upright=False, channels=3):
  """Returns the image in the bytes of a file, (H, W, channels) uint8.

  Grey images become RGB by repetition; CMYK and palettes are converted to RGB.
  Transparency is dropped, the upper 8 of 16 bits are kept, and the first
  picture of an animation is taken.

  Args:
    data: bytes of a JPEG, a PNG, or any other file that Pillow reads.
    name: name of the file, for error messages.
    upright: whether to apply the EXIF orientation; TensorFlow does not.
    channels: 3 for RGB, 1 for grey (the luma of ITU-R 601).

  Raises:
    UserError: the file is damaged, not an image, or has 32 bits per channel.
  """
  with opened(data, name) as image:
    rgb = _to_rgb(ImageOps.exif_transpose(image) if upright else image)
  if channels == 1:
    return np.asarray(rgb.convert('L'))[..., None]
  return np.asarray(rgb)


@contextlib.contextmanager
def opened(data, name):
  """Opens the bytes of a file as a Pillow image, for a `with` block.

  Args:
    data: bytes of the file.
    name: name of the file, for error messages.

  Raises:
    UserError: the file is damaged or not an image, or the block raised.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      yield image
  except Exception as error:  # Pillow's decoders raise any type on damage
    reason = ' '.join(str(error).split())
    if isinstance(error, PIL.UnidentifiedImageError):
      reason = 'damaged, or of an unknown format'
    raise UserError(
      f'{name} cannot be read as an image ({reason}); replace or remove it'
    ) from error


def _to_rgb(image):
  """Returns a Pillow image as RGB."""
  if image.mode in ('I', 'F'):
    raise ValueError('32 bits per pixel; save it with 8')
  if image.mode.startswith('I;16'):
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.mode == 'P':
    # RGBA comes first: Pillow warns if a transparent palette becomes RGB.
    image = image.convert('RGBA')
  return image.convert('RGB')


def crop_and_resize(image, size, method):
  """Returns the central square of an image (H, W, C), as (size, size, C)."""
  return resize(central_square(image), size, method)


def central_square(image):
  """Returns the largest central square of an image (H, W, C)."""
  height, width = image.shape[:2]
  side = min(height, width)
  # The original computes this offset. (height - side) // 2 is one less if the
  # height is even and the side odd.
  top, left = height // 2 - side // 2, width // 2 - side // 2
  return image[top : top + side, left : left + side]


def resize(image, size, method):
  """Returns an image resized to (size, size, C), rounded to uint8.

  Args:
    image: (H, W, C) uint8; it is enlarged if it is smaller than `size`.
    size: height and width of the result, in pixels.
    method: 'area' or 'antialias'.
  """
  rows, columns = (_taps(method, n, size) for n in image.shape[:2])
  resized = _weighted_sums(image, *rows).swapaxes(0, 1)
  resized = _weighted_sums(resized, *columns).swapaxes(0, 1)
  return np.round(resized).clip(0, 255).astype(np.uint8)


def _weighted_sums(image, indices, weights):
  """Returns weighted sums of rows, (N, W, C) float32, for taps (K, N).

  This is a matrix product with few entries per row. It is written as a loop
  because a matrix product would start the threads of BLAS in each of the
  threads that read images.
  """
  total = 0
  for index, weight in zip(indices, weights, strict=True):
    total += weight[:, None, None] * image[index]
  return total


@functools.lru_cache(256)
def _taps(method, num_from, num_to):
  """Returns the source pixels of each target pixel, and their weights.

  Returns:
    Indices and float32 weights, both (K, num_to), where K is the largest number
    of source pixels that a target pixel needs.
  """
  weights = _WEIGHTS[method](num_from, num_to)  # (num_to, num_from)
  weights /= weights.sum(1, keepdims=True)
  used = weights > 0
  count = used.sum(1).max()
  first = np.minimum(used.argmax(1), num_from - count)
  indices = first + np.arange(count)[:, None]
  return indices, weights[np.arange(num_to), indices].astype(np.float32)


def _area(num_from, num_to):
  """Returns how much of each source pixel a target pixel covers."""
  edges = np.arange(num_to + 1) * (num_from / num_to)
  pixels = np.arange(num_from)
  upper = np.minimum(edges[1:, None], pixels + 1)
  lower = np.maximum(edges[:-1, None], pixels)
  return np.maximum(upper - lower, 0)


def _antialias(num_from, num_to):
  """Returns the triangle around each target pixel's centre."""
  scale = num_from / num_to
  centers = (np.arange(num_to) + 0.5) * scale - 0.5
  distance = np.abs(np.arange(num_from) - centers[:, None])
  return np.maximum(1 - distance / max(scale, 1), 0)


_WEIGHTS = {'area': _area, 'antialias': _antialias}
