"""Samples as images of an HTML page."""

import base64
import html
import io

import numpy as np
from PIL import Image

ROWS = 2  # rows of images in one picture
_SMALL, _LARGE = 40, 64  # pixels that an image is enlarged or reduced to
_GAP = 2  # pixels between images
_GREY = 128  # grey level of the gap, visible beside black and white images


def columns(images):
  """Returns how many columns of images one cell of a table has room for.

  Args:
    images: (N, H, W, C).
  """
  return 3 if images.shape[1] <= _LARGE // 2 else 2


def to_html(images, num_columns, description):
  """Returns the first images side by side, in `ROWS` rows, as <img>.

  Images of fewer than 40 pixels are enlarged by a whole factor, and those of
  more than 64 are reduced to 64.

  Args:
    images: (N, H, W, C) uint8, C 1 or 3.
    num_columns: images in a row.
    description: a sentence for readers who cannot see the images.
  """
  images = np.stack([_resize(image) for image in images[: ROWS * num_columns]])
  missing = -len(images) % num_columns
  gaps = ((0, missing), (0, _GAP), (0, _GAP), (0, 0))
  images = np.pad(images, gaps, constant_values=_GREY)
  _, height, width, channels = images.shape
  sheet = images.reshape(-1, num_columns, height, width, channels)
  sheet = sheet.swapaxes(1, 2).reshape(-1, num_columns * width, channels)
  sheet = sheet[:-_GAP, :-_GAP]
  file = io.BytesIO()
  picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
  picture.save(file, format='png', optimize=True)
  data = base64.b64encode(file.getvalue()).decode()
  return (
    f'<img alt="{html.escape(description)}" width="{picture.width}" '
    f'height="{picture.height}" src="data:image/png;base64,{data}">'
  )


def _resize(image):
  """Returns an image (H, W, C) in the size that the page shows it in."""
  height, width, channels = image.shape
  if height <= _LARGE:
    scale = max(1, round(_SMALL / height))
    return image.repeat(scale, axis=0).repeat(scale, axis=1)
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  size = round(_LARGE * width / height), _LARGE
  picture = picture.resize(size, Image.Resampling.BOX)
  return np.asarray(picture).reshape(*size[::-1], channels)
