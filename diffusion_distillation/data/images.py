"""Image files to square uint8 images: decode, crop, resize as TensorFlow does.

A resize is linear and separable: the same weighted sums along the rows and
along the columns, with weights from the method's definition. `area` averages
what a target pixel covers; `antialias` is bilinear, its triangle as wide as a
target pixel where that is larger. They are `tf.image.resize` with
method='area', and with method='bilinear' and antialias=True, up to float32
rounding.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageOps


def decode(data, name, *, upright=False):
  """Returns the image in a file's bytes as RGB, (H, W, 3) uint8.

  Grey is repeated, CMYK and palettes are converted, transparency is dropped, of
  16 bits the upper 8 are kept, of an animation the first picture.

  Args:
    data: bytes of a JPEG, PNG or other file that Pillow reads.
    name: of the file, for errors.
    upright: whether to turn it as its EXIF orientation says; TensorFlow does
      not.

  Raises:
    ValueError: the file is damaged, cut short, no image, or of 32 bits.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      rgb = _as_rgb(ImageOps.exif_transpose(image) if upright else image)
  except Exception as error:  # decoders raise anything on damaged bytes
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'{name} cannot be read as an image ({reason}); repair or remove it'
    ) from error
  return np.asarray(rgb)


def _as_rgb(image):
  if image.mode in ('I', 'F'):
    raise ValueError('32 bits per pixel; save it with 8')
  if image.mode.startswith('I;16'):
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.mode == 'P':  # straight to RGB, Pillow warns of transparent palettes
    image = image.convert('RGBA')
  return image.convert('RGB')


def central_square(image):
  """Returns the central square of an image (H, W, C), as large as can be."""
  height, width = image.shape[:2]
  side = min(height, width)
  # As the original: not (height - side) // 2, which differs at odd sides.
  top, left = height // 2 - side // 2, width // 2 - side // 2
  return image[top : top + side, left : left + side]


def resize(image, size, method):
  """Returns an image resized to (size, size, C), rounded to uint8.

  Args:
    image: (H, W, C) uint8. Smaller than `size`, it is enlarged.
    size: pixels.
    method: 'area' or 'antialias'.
  """
  rows, columns = (_taps(method, n, size) for n in image.shape[:2])
  resized = _weighted_sums(image, *rows).swapaxes(0, 1)
  resized = _weighted_sums(resized, *columns).swapaxes(0, 1)
  return np.round(resized).clip(0, 255).astype(np.uint8)


def _weighted_sums(image, indices, weights):
  """Returns (N, W, C) float32: sums over rows, of taps (K, N).

  Few taps are not zero, and a product of matrices would start BLAS's threads in
  each of the threads that read images.
  """
  total = 0
  for index, weight in zip(indices, weights, strict=True):
    total += weight[:, None, None] * image[index]
  return total


def square(image, size, method):
  """Returns the central square of an image, resized to (size, size, C)."""
  return resize(central_square(image), size, method)


@functools.lru_cache(256)
def _taps(method, num_from, num_to):
  """Returns the source pixels of each target pixel, and their weights.

  Returns:
    Indices and float32 weights, both (K, num_to).
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
  """Returns the triangle around a target's centre at each source pixel."""
  scale = num_from / num_to
  centers = (np.arange(num_to) + 0.5) * scale - 0.5
  distance = np.abs(np.arange(num_from) - centers[:, None])
  return np.maximum(1 - distance / max(scale, 1), 0)


_WEIGHTS = {'area': _area, 'antialias': _antialias}
