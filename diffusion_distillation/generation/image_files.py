"""Image files: reads the images to measure, and writes samples."""

import math
import os
import pathlib
import re
import tempfile
import zipfile

import numpy as np

from diffusion_distillation.data import image_folder
from diffusion_distillation.data.resize import opened
from diffusion_distillation.generation import grids
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

_BATCH_SIZE = 512
_MAX_SEEDS = 10_000_000
_GRID = 'grid.png'  # beside the samples in a folder
# Formats that a user may expect from --out, but that are not supported.
_OTHER_FILES = (
  '.npy',
  '.zip',
  '.jpg',
  '.jpeg',
  '.webp',
  '.gif',
  '.bmp',
  '.tif',
  '.tiff',
  '.safetensors',
  '.flax',
)


class ImageFiles:
  """Images of any origin, in batches; can be iterated more than once.

  Attributes:
    num_images: number of images.
  """

  def __init__(self, path, image_shape):
    """Finds the images.

    Args:
      path: FILE.npz with uint8 images (N, H, W, C) under `arr_0` or `samples`,
        or as its only array; or a folder or FILE.zip of image files, at any
        depth.
      image_shape: (H, W, C) that the images must have; grey images become RGB
        if C is 3.

    Raises:
      UserError: there are no images, or they have another shape or type.
    """
    # Unlike Path.expanduser, this keeps the ~ if there is no home folder.
    self._path = pathlib.Path(os.path.expanduser(path))
    self._shape, self._array = tuple(image_shape), None
    is_folder = os.path.isdir(self._path)
    if self._path.suffix.lower() == '.npz' and not is_folder:
      self._array = self._to_shape(_read_npz(self._path), self._path)
      self.num_images = len(self._array)
    else:
      self._files = image_folder.open_files(path, '--images')
      # --mode=sample writes a picture of all samples beside them.
      self._names = [name for name in self._files.names if name != _GRID]
      self.num_images = len(self._names)
    if not self.num_images:
      raise UserError(f'--images={path}: there are no images in it')

  def __iter__(self):
    """Yields uint8 images (B, H, W, C).

    Raises:
      UserError: an image cannot be read or has another shape; the message
        names it.
    """
    for first in range(0, self.num_images, _BATCH_SIZE):
      batch = slice(first, first + _BATCH_SIZE)
      if self._array is not None:
        yield self._array[batch]
      else:
        yield np.stack([self._decode(name) for name in self._names[batch]])

  def _decode(self, name):
    data, where = self._files.read(name), f'{self._path}: {name}'
    with opened(data, where) as image:
      # A palette and two levels are other ways to store RGB and grey.
      mode = {'P': 'RGB', '1': 'L'}.get(image.mode, image.mode)
      pixels = np.asarray(image.convert(mode))
    if mode not in ('RGB', 'L'):
      raise UserError(
        f'{where} has mode {mode}; convert it to RGB or grey with 8 bits'
      )
    return self._to_shape(pixels.reshape(1, *pixels.shape[:2], -1), where)[0]

  def _to_shape(self, images, where):
    """Returns images in the required shape; grey becomes RGB if needed."""
    if images.shape[-1] == 1 and self._shape[-1] == 3:
      images = np.repeat(images, 3, axis=-1)
    if images.shape[1:] != self._shape:
      raise UserError(
        f'{where} has shape {"x".join(map(str, images.shape[1:]))}, but the '
        f'data set has {"x".join(map(str, self._shape))}'
      )
    return images


def _read_npz(path):
  """Returns the images of a .npz, uint8 (N, H, W, C)."""
  if not os.path.isfile(path):
    raise UserError(f'--images={path}: there is no such file')
  with files.reading(f'--images={path}'), path.open('rb') as file:
    if not zipfile.is_zipfile(file):
      raise ValueError('it is not a .npz archive; write one with numpy.savez')
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
      names = [n for n in ('arr_0', 'samples') if n in arrays] or arrays.files
      array = arrays[names[0]] if names else np.zeros(0)
  if len(names) > 1 and names[0] != 'arr_0':
    raise UserError(
      f'{path} must have its images under arr_0 or samples; it has '
      f'{", ".join(names)}'
    )
  if array.ndim != 4 or array.dtype != np.uint8:
    raise UserError(
      f'{path} must have uint8 images (N, H, W, C), it has {array.dtype} '
      f'{array.shape}'
    )
  return array


def parse_seeds(text):
  """Returns seeds, (N,) ints, from a text such as '0-63' or '1,5,10-12'.

  A seed that is named twice is returned once.

  Raises:
    UserError: the text cannot be parsed, or gives too many seeds.
  """
  seeds = []
  for part in text.split(','):
    match = re.fullmatch(r'(\d{1,10})(?:-(\d{1,10}))?', part.strip(), re.ASCII)
    first, last = (match[1], match[2] or match[1]) if match else (1, 0)
    first, last = int(first), int(last)
    if last < first or last >= 2**32 or last - first >= _MAX_SEEDS:
      raise UserError(
        f'--seeds={text} is not valid; give integers below 2^32 and ranges '
        f'of at most {_MAX_SEEDS:,}, such as 0-63 or 1,5,10-12'
      )
    seeds.append(np.arange(first, last + 1))
  seeds = np.concatenate(seeds)
  return seeds[np.sort(np.unique(seeds, return_index=True)[1])]


def check_writable(out, is_file=None):
  """Checks that `out` can be written, and creates its folder.

  Args:
    out: path that --out gives.
    is_file: whether a file will be written there; None decides as
      `write_samples` does.

  Raises:
    UserError: `out` cannot be written, or its suffix is not supported.
  """
  if str(out).startswith('gs://'):
    raise UserError(f'--out={out} is not local; write a local file and copy it')
  out = pathlib.Path(out)
  suffix = out.suffix.lower()
  if is_file is None:
    if suffix in _OTHER_FILES:
      raise UserError(
        f'--out={out}: {suffix} files are not written; give FILE.npz, FILE.png '
        '(one picture of all samples) or a folder'
      )
    is_file = suffix in ('.npz', '.png')
  folder = out.parent if is_file else out
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error}') from error
  if is_file and out.exists() and not out.is_file():
    what = 'a folder' if out.is_dir() else 'not a regular file'
    raise UserError(f'--out={out} cannot be written: it is {what}')


def write_samples(out, images, seeds, labels=None):
  """Writes samples to files.

  Args:
    out: FILE.npz gets `arr_0`, the images, and `arr_1`, the labels. FILE.png
      gets one picture with all images in a square grid. Any other path becomes
      a folder with SEED.png for each image, and grid.png with the first 100.
    images: (N, H, W, C) uint8.
    seeds: (N,) ints, the seed of each image.
    labels: (N,) int32, the class of each image; None writes zeros.

  Raises:
    UserError: a file cannot be written; the message names it.
  """
  check_writable(out)
  out = pathlib.Path(out)
  suffix = out.suffix.lower()
  if suffix == '.npz':
    if labels is None:
      labels = np.zeros(len(images), np.int32)
    files.write_npz(out, {'arr_0': images, 'arr_1': labels})
  elif suffix == '.png':
    side = math.ceil(math.sqrt(len(images)))
    grids.save_image(grids.grid(images, columns=side, rows=side), out)
  else:
    for seed, image in zip(seeds, images, strict=True):
      grids.save_image(image, out / f'{seed:06}.png')
    grids.save_grid(images, out / _GRID)
