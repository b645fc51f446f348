"""Images of any origin, from a .npz, a folder or a zip, to be measured."""

import io
import pathlib
import zipfile

import numpy as np
from PIL import Image

from diffusion_distillation.data import folder
from diffusion_distillation.evaluation.statistics import batches_of
from diffusion_distillation.runtime.errors import UserError

_LEAST = 4  # images, for precision and recall


class ImageFiles:
  """Images to measure, in batches; iterable more than once.

  Attributes:
    num_images: how many.
  """

  def __init__(self, path, image_shape):
    """Finds the images.

    Args:
      path: FILE.npz with uint8 images (N, H, W, C) under `arr_0`, `samples` or
        its only name; or a folder or FILE.zip of image files, at any depth.
      image_shape: (H, W, C) that they must have; grey ones become RGB.

    Raises:
      UserError: they are not there, too few, or of another shape or type.
    """
    self._path = pathlib.Path(path).expanduser()
    self._shape = tuple(image_shape)
    if not self._path.exists():
      raise UserError(f'--images={path}: there is no such file or folder')
    self._array = None
    if self._path.suffix.lower() == '.npz':
      self._array = self._to_shape(_read_npz(self._path), self._path)
      self.num_images = len(self._array)
    else:
      self._files = self._open()
      # A picture of samples that --mode=sample writes beside them.
      self._names = [name for name in self._files.names if name != 'grid.png']
      self.num_images = len(self._names)
    if self.num_images < _LEAST:
      raise UserError(
        f'--images={path}: {self.num_images} images found; at least {_LEAST} '
        'are needed, as files or in a .npz'
      )

  def __iter__(self):
    """Yields uint8 (B, H, W, C).

    Raises:
      UserError: an image cannot be read, or has another shape; it is named.
    """
    if self._array is not None:
      yield from batches_of(self._array)
      return
    for names in batches_of(self._names):
      yield np.stack([self._decode(name) for name in names])

  def _open(self):
    try:
      return folder.open_files(self._path)
    except ValueError as error:
      raise UserError(
        f'--images={self._path}: give a .npz, a folder or a zip'
      ) from error

  def _decode(self, name):
    try:
      with Image.open(io.BytesIO(self._files.read(name))) as image:
        # A palette and two levels are ways to store RGB and grey.
        mode = {'P': 'RGB', '1': 'L'}.get(image.mode, image.mode)
        if mode not in ('RGB', 'L'):
          raise UserError(f'{name} is {mode}, not RGB or grey of 8 bits')
        pixels = np.asarray(image.convert(mode))
    except UserError:
      raise
    except Exception as error:  # decoders raise anything on damaged bytes
      raise UserError(f'{name} in {self._path} is damaged: {error}') from error
    pixels = pixels.reshape(1, *pixels.shape[:2], -1)
    return self._to_shape(pixels, name)[0]

  def _to_shape(self, images, name):
    """Returns images of the data set's shape; grey becomes RGB."""
    if images.shape[-1] == 1 and self._shape[-1] == 3:
      images = np.repeat(images, 3, axis=-1)
    if images.shape[1:] != self._shape:
      raise UserError(
        f'{name} has images of {"x".join(map(str, images.shape[1:]))}, the '
        f'data set of {"x".join(map(str, self._shape))}'
      )
    return images


def _read_npz(path):
  """Returns the images of a .npz, uint8 (N, H, W, C)."""
  try:
    with np.load(path, allow_pickle=False) as file:
      names = [n for n in ('arr_0', 'samples') if n in file] or file.files
      if names[1:] and names[0] != 'arr_0':
        raise UserError(
          f'{path} must have its images under arr_0 or samples; it has '
          f'{", ".join(names)}'
        )
      images = file[names[0]] if names else np.zeros(0)
  except UserError:
    raise
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f'{path} is damaged or no .npz: {error}') from error
  if images.ndim != 4 or images.dtype != np.uint8:
    raise UserError(
      f'{path} must have uint8 images (N, H, W, C), it has {images.dtype} '
      f'{images.shape}'
    )
  return images
