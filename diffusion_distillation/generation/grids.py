"""Grids of images: many images side by side in one picture."""

import os
import pathlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

_COLUMNS, _ROWS = 20, 5
GRID_IMAGES = _COLUMNS * _ROWS  # images of a grid by default
_MIN_HEIGHT = 40  # pixels that smaller images are enlarged to
_LINE = 96  # grey level between the images
_KEYWORD = 'Description'  # a keyword that PNG predefines


def grid(images, columns=_COLUMNS, rows=_ROWS):
  """Returns images side by side, with a line of one pixel between them.

  Args:
    images: (N, H, W, C) uint8, C of 1 or 3; small ones are enlarged.
    columns: largest number of columns.
    rows: largest number of rows; further images are left out.

  Returns:
    (height, width, C) uint8.
  """
  images = images[: columns * rows]
  columns = min(columns, len(images))
  rows = -(-len(images) // columns)
  scale = max(1, round(_MIN_HEIGHT / images.shape[1]))
  images = images.repeat(scale, axis=1).repeat(scale, axis=2)
  _, height, width, channels = images.shape
  shape = rows * (height + 1) + 1, columns * (width + 1) + 1, channels
  page = np.full(shape, _LINE, np.uint8)
  for i, image in enumerate(images):
    top, left = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
    page[top : top + height, left : left + width] = image
  return page


def read_grid(path, image_shape):
  """Returns the images of a picture that `save_grid` wrote.

  Args:
    path: path of the file.
    image_shape: (H, W, C) of the images.

  Returns:
    (N, H, W, C) uint8; empty places of the last row count as images.

  Raises:
    UserError: the file cannot be read, or is not such a picture.
  """
  height, width, channels = image_shape
  scale = max(1, round(_MIN_HEIGHT / height))
  try:
    with Image.open(path) as image:
      page = np.asarray(image).reshape(image.height, image.width, -1)
  except Exception as error:  # PIL raises many types on damage
    raise UserError(f'cannot read {path}: {error}; remove it') from error
  height, width = height * scale + 1, width * scale + 1  # with the line
  rows, columns = page.shape[0] // height, page.shape[1] // width
  if page.shape != (rows * height + 1, columns * width + 1, channels):
    raise UserError(f'{path} is not a grid of {image_shape} images; remove it')
  cells = page[1:, 1:].reshape(rows, height, columns, width, channels)
  cells = cells[:, :-1:scale, :, :-1:scale].swapaxes(1, 2)
  return cells.reshape(rows * columns, *image_shape)


def to_image(array):
  """Returns an array (H, W, C) uint8, C of 1 or 3, as a PIL image."""
  return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_image(array, path, text=None):
  """Writes an array (H, W, C) uint8, C of 1 or 3, as a PNG, atomically.

  Args:
    array: the image.
    path: path of the file.
    text: a description to keep in the file.

  Raises:
    UserError: the file cannot be written.
  """
  path, info = pathlib.Path(path), PngInfo()
  if text is not None:
    info.add_text(_KEYWORD, text)
  new = path.with_name(f'{path.name}.new')
  with files.writing(path):
    try:
      # `files.write_bytes` would wait for the disk, 5 ms for each sample.
      to_image(array).save(new, format='png', pnginfo=info)
      os.replace(new, path)
    finally:
      new.unlink(missing_ok=True)


def save_grid(images, path, text=None):
  """Writes the `grid` of images as a PNG, and creates its folder if needed.

  Args:
    images: (N, H, W, C) uint8.
    path: path of the file.
    text: description of the images; see `shows`.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  save_image(grid(images), path, text)


def shows(path, text):
  """Returns whether a file is an intact picture that was saved with a text."""
  try:
    with Image.open(path) as image:
      image.load()
      return image.info.get(_KEYWORD) == text
  except Exception:  # the file is missing, or damaged: PIL raises many types
    return False
