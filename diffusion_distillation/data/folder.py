"""Your own images: a folder of files, or a zip of them."""

import functools
import json
import operator
import os
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from diffusion_distillation.data import images
from diffusion_distillation.data.dataset import Dataset

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')
_LABELS = 'dataset.json'
# Of classes: some may have no image, but a larger number is a mistake.
_MOST = 2**16
# What zipfile raises: of damage, encryption, unknown compression.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def load(
  path=None,
  image_size=None,
  class_conditional=False,
  random_flip=True,
  heldout_fraction=0.02,
):
  """Returns the images under a path: central squares, area-resized, RGB.

  Labels are in a file dataset.json at the top, as EDM and StyleGAN write it:
  {"labels": [["00000/img0.png", 3], ...]}. Held out are the images whose names
  have the smallest checksums, so that new images hardly change the split.

  Args:
    path: a folder, searched recursively, or a .zip file.
    image_size: height and width, in pixels.
    class_conditional: whether labels are used.
    random_flip: whether training flips images.
    heldout_fraction: of the images, 0 < f < 1, at least one of them.

  Raises:
    ValueError: an argument makes no sense, or there are no good labels.
  """
  if type(image_size) is not int or image_size < 1:
    raise ValueError(
      'dataset.args.image_size must be the height and width of the images in '
      f'pixels, such as 64, got {image_size!r}'
    )
  number = isinstance(heldout_fraction, int | float)
  if not number or not 0 < heldout_fraction < 1:
    raise ValueError(
      'dataset.args.heldout_fraction must be a number between 0 and 1, got '
      f'{heldout_fraction!r}'
    )
  files = functools.cache(lambda: open_files(path))
  labels = _read_labels(files()) if class_conditional else None

  def open_split(part):
    names = _split(files(), labels, heldout_fraction)[part]
    return _FileExamples(files(), names, labels, image_size)

  return Dataset(
    name='folder',
    image_shape=(image_size, image_size, 3),
    num_classes=max(labels.values()) + 1 if labels else 1,
    random_flip=random_flip,
    open_train=lambda: open_split(0),
    open_heldout=lambda: open_split(1),
  )


def _split(files, labels, fraction):
  """Returns the names to train on, and those held out, both sorted.

  Raises:
    ValueError: there are fewer than two, or one has no label.
  """
  names = files.names
  if len(names) < 2:
    raise ValueError(
      f'{files.path} has {len(names)} images ({", ".join(_SUFFIXES)}), and at '
      'least 2 are needed; set --config.dataset.args.path'
    )
  for name in names:
    if labels is not None and name not in labels:
      raise ValueError(f'{files.path}: {_LABELS} has no label of {name}')
  count = min(max(1, round(fraction * len(names))), len(names) - 1)
  ranked = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
  return sorted(ranked[count:]), sorted(ranked[:count])


class _FileExamples(Sequence):
  """Examples decoded and resized when they are asked for."""

  def __init__(self, files, names, labels, image_size):
    """Takes the files, and which of them; labels by name, or None."""
    self._files, self._names = files, names
    self._labels, self._image_size = labels, image_size

  def __len__(self):
    return len(self._names)

  def __getitem__(self, index):
    name = self._names[index]
    data = self._files.read(name)
    image = images.decode(data, f'{self._files.path}: {name}', upright=True)
    label = self._labels[name] if self._labels else 0
    return {
      'image': images.square(image, self._image_size, 'area'),
      'label': np.int32(label),
    }


def open_files(path):
  """Returns the files under a path: the `names` of images, and `read(name)`.

  Args:
    path: a folder, searched recursively, or a .zip file.

  Raises:
    ValueError: there is none, or it is neither a folder nor a zip.
  """
  if path is None:
    raise ValueError(
      'which images? give their folder or zip: '
      '--config.dataset.args.path=FOLDER'
    )
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    return _Folder(path)
  if zipfile.is_zipfile(path):
    return _Zip(path)
  raise ValueError(
    f'dataset.args.path={path} is neither a folder nor a readable .zip file'
  )


class _Folder:
  """The files of a folder, by names relative to it, with forward slashes."""

  def __init__(self, path):
    self.path = path

  @functools.cached_property
  def names(self):
    return _images(
      pathlib.Path(folder, file).relative_to(self.path).as_posix()
      for folder, _, files in os.walk(self.path)
      for file in files
    )

  def read(self, name):
    return (self.path / name).read_bytes()


class _Zip:
  """The files of a zip, read one at a time, whichever thread asks."""

  def __init__(self, path):
    self.path = path
    self._zip, self._lock = zipfile.ZipFile(path), threading.Lock()

  @functools.cached_property
  def names(self):
    return _images(self._zip.namelist())

  def read(self, name):
    with self._lock:
      try:
        return self._zip.read(name)
      except KeyError as error:
        raise FileNotFoundError(name) from error
      except _UNREADABLE as error:
        reason = f'cannot be read ({error}); zip it anew'
        raise ValueError(f'{self.path}: {name} {reason}') from error


def _images(names):
  """Returns the names of images, sorted; none of hidden or macOS's files."""
  return sorted(
    name
    for name in names
    if name.lower().endswith(_SUFFIXES)
    and not any(part.startswith(('.', '__MACOSX')) for part in name.split('/'))
  )


def _read_labels(files):
  """Returns the labels of files, by name.

  Raises:
    ValueError: there are none, or they are not whole numbers from 0 on.
  """
  where = f'{files.path}: {_LABELS}'
  try:
    labels = json.loads(files.read(_LABELS))['labels']
    labels = {name: operator.index(label) for name, label in labels}
  except FileNotFoundError as error:
    raise ValueError(
      f'{where} is missing, which says the class of each image; write it, or '
      'set --config.dataset.args.class_conditional=False'
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{where} must be {{"labels": [["NAME", CLASS], ...]}} with whole '
      'numbers as classes'
    ) from error
  if (
    not labels or not 0 <= min(labels.values()) <= max(labels.values()) < _MOST
  ):
    raise ValueError(f'{where} must have classes of 0 to {_MOST - 1}')
  return labels
