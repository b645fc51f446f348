"""Your own images: a folder of image files, or a zip of such a folder."""

import collections
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

from diffusion_distillation.data.dataset import Dataset, digest
from diffusion_distillation.data.resize import crop_and_resize, decode
from diffusion_distillation.runtime.errors import UserError

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')
_LABELS = 'dataset.json'
# Files and folders whose names begin like this are ignored: hidden ones, and
# those that macOS adds to zips.
_IGNORED = ('.', '__MACOSX')
# A larger number is assumed to be a mistake: a network has a vector per class.
_MAX_CLASSES = 2**16
_PATH = '--config.dataset.args.path'


def load(
  path=None,
  image_size=None,
  channels=3,
  class_conditional: bool = False,
  num_classes=None,
  random_flip: bool = True,
  heldout_fraction=0.02,
):
  """Returns the images under a path: central squares, resized by area.

  Labels come from a file dataset.json at the top, in the format of EDM and
  StyleGAN: {"labels": [["00000/img0.png", 3], ...]}. The images whose names
  have the smallest checksums are held out, so that the split hardly changes
  when images are added.

  Args:
    path: a folder, which is searched recursively, or a .zip file.
    image_size: height and width, in pixels.
    channels: 3 makes grey images RGB; 1 makes colour images grey.
    class_conditional: whether labels are used.
    num_classes: number of classes; None takes the largest label plus one. Set
      it if classes may be added later, since the network depends on it.
    random_flip: whether training flips half of the images left to right.
    heldout_fraction: fraction of the images that is held out, between 0 and 1;
      at least one image is held out.

  Raises:
    ValueError: an argument has a bad value.
    UserError: num_classes must be read from dataset.json and cannot be.
  """
  _check_arguments(
    image_size, channels, class_conditional, num_classes, heldout_fraction
  )

  @functools.cache
  def files():
    if not path:
      raise UserError(f'set {_PATH} to the folder or zip of your images')
    return open_files(path, _PATH)

  @functools.cache
  def labels():
    return _read_labels(files(), num_classes) if class_conditional else None

  def open_split(part):
    names = _split(files(), labels(), heldout_fraction)[part]
    return _FileExamples(files(), names, labels(), image_size, channels)

  if num_classes is None:
    num_classes = max(labels().values()) + 1 if class_conditional else 1
  return Dataset(
    name='folder',
    image_shape=(image_size, image_size, channels),
    num_classes=num_classes,
    random_flip=random_flip,
    open_train=lambda: open_split(0),
    open_heldout=lambda: open_split(1),
  )


def _check_arguments(
  image_size, channels, class_conditional, num_classes, heldout_fraction
):
  if type(image_size) is not int or image_size < 1:
    raise ValueError(
      'dataset.args.image_size must be the height and width of the images in '
      f'pixels, such as 64, got {image_size!r}'
    )
  if channels not in (1, 3):
    raise ValueError(
      f'dataset.args.channels must be 3 (RGB) or 1 (grey), got {channels!r}'
    )
  if num_classes is not None:
    if type(num_classes) is not int or not 1 <= num_classes <= _MAX_CLASSES:
      raise ValueError(
        f'dataset.args.num_classes must be an integer from 1 to {_MAX_CLASSES},'
        f' got {num_classes!r}'
      )
    if not class_conditional:
      raise ValueError(
        f'dataset.args.num_classes={num_classes} needs '
        'dataset.args.class_conditional=True'
      )
  number = isinstance(heldout_fraction, int | float)
  if not number or not 0 < heldout_fraction < 1:
    raise ValueError(
      'dataset.args.heldout_fraction must be a number between 0 and 1, got '
      f'{heldout_fraction!r}'
    )


def _split(files, labels, fraction):
  """Returns the names to train on and the held-out names, both sorted."""
  names = files.names
  if len(names) < 2:
    raise UserError(
      f'{files.path} needs at least 2 images ({", ".join(_SUFFIXES)}), but has '
      f'{len(names)}, and {len(files.others)} other files; set {_PATH} to the '
      'folder or zip of your images'
    )
  for name in names:
    if labels is not None and name not in labels:
      raise UserError(
        f'{files.path}: {_LABELS} has no label for {name}; add it, or remove '
        'the image'
      )
  count = min(max(1, round(fraction * len(names))), len(names) - 1)
  ranked = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
  return sorted(ranked[count:]), sorted(ranked[:count])


class _FileExamples(Sequence):
  """Examples that are read, decoded and resized on access."""

  def __init__(self, files, names, labels, image_size, channels):
    """Takes the files, the names to use, and labels by name or None."""
    self._files, self._names, self._labels = files, names, labels
    self._image_size, self._channels = image_size, channels

  def __len__(self):
    return len(self._names)

  def __getitem__(self, index):
    name = self._names[index]
    image = decode(
      self._files.read(name),
      f'{self._files.path}: {name}',
      upright=True,
      channels=self._channels,
    )
    return {
      'image': crop_and_resize(image, self._image_size, 'area'),
      'label': np.int32(self._label(name)),
    }

  def _label(self, name):
    return self._labels[name] if self._labels else 0

  def fingerprint(self):
    """Returns a checksum of names, labels, sizes and times (or zip CRCs)."""
    return digest(
      [
        [self._image_size, self._channels],
        *(
          [name, self._label(name), *self._files.stamp(name)]
          for name in self._names
        ),
      ]
    )


def open_files(path, flag):
  """Opens the image files under a path.

  Args:
    path: a folder, which is searched recursively, or a .zip file.
    flag: the flag that gave the path, for error messages.

  Returns:
    An object with the `path`, the sorted `names` of the images, the names of
    all `others`, `read(name)` -> bytes, and `stamp(name)` -> a list of numbers
    that changes when the file does.

  Raises:
    UserError: the path is neither a folder nor a zip, or something in it cannot
      be used as it is; the message names it.
  """
  # Unlike pathlib's, this keeps the ~ if there is no home folder.
  path = pathlib.Path(os.path.expanduser(path))
  if os.path.isdir(path):
    return _Folder(path)
  if os.path.isfile(path) and zipfile.is_zipfile(path):
    return _Zip(path)
  problem = 'is neither a folder nor a readable .zip file'
  if not os.path.exists(path):
    problem = 'does not exist, or is not accessible'
  raise UserError(f'{flag}={path} {problem}')


class _Folder:
  """The files of a folder; names are relative to it, with forward slashes."""

  def __init__(self, path):
    self.path = path
    self.names, self.others = _sort_out(_walk(path))

  def read(self, name):
    try:
      return (self.path / name).read_bytes()
    except OSError as error:
      raise _unreadable(error) from error

  def stamp(self, name):
    """Returns the size and the time of the last change, in nanoseconds."""
    try:
      status = os.stat(self.path / name)
    except OSError as error:
      raise _unreadable(error) from error
    return [status.st_size, status.st_mtime_ns]


def _walk(top):
  """Yields the relative names of the files below a folder.

  Links to folders are followed, but no folder is entered twice, so that a link
  to a parent does no harm. Links are followed last: a folder that is also
  reached directly keeps its own name.

  Raises:
    UserError: a folder cannot be read, or an image is not a regular file or has
      a name that is not UTF-8.
  """
  folders, links, seen = [''], [], set()
  while folders or links:
    folder = folders.pop() if folders else links.pop(0)
    try:
      status = os.stat(top / folder)
      identity = status.st_dev, status.st_ino
      if identity in seen:
        continue
      seen.add(identity)
      with os.scandir(top / folder) as found:
        entries = sorted(found, key=operator.attrgetter('name'))
      for entry in entries:
        name = folder + entry.name
        if entry.name.startswith(_IGNORED):
          continue
        if entry.is_dir():
          (links if entry.is_symlink() else folders).append(f'{name}/')
        elif entry.is_file():
          yield _checked(top, name)
        elif _is_image(name):
          raise UserError(
            f'{entry.path} is not a regular file (it is a broken link, a pipe, '
            'a socket or a device); remove or rename it'
          )
    except OSError as error:
      raise _unreadable(error) from error


def _checked(top, name):
  """Returns a name; raises UserError if an image's name is not UTF-8."""
  try:
    name.encode()
  except UnicodeEncodeError as error:
    if _is_image(name):
      raise UserError(
        f'{top}: the file name {os.fsencode(name)!r} is not UTF-8; rename it'
      ) from error
  return name


def _unreadable(error):
  """Returns the UserError for an OSError."""
  return UserError(
    f'cannot read {error.filename}: {error.strerror}; it must exist and be '
    'readable'
  )


class _Zip:
  """The files of a zip, which several threads may read, one at a time."""

  def __init__(self, path):
    self.path, self._lock = path, threading.Lock()
    try:
      self._zip = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many types on damage
      raise self._damaged('', error) from error
    infos = [info for info in self._zip.infolist() if not info.is_dir()]
    counts = collections.Counter(info.filename for info in infos)
    for name, count in counts.items():
      if count > 1:
        raise UserError(
          f'{path} has {count} files named {name}; create the zip again '
          'without duplicates'
        )
    self.names, self.others = _sort_out(
      name
      for name in counts
      if not any(part.startswith(_IGNORED) for part in name.split('/'))
    )

  def read(self, name):
    with self._lock:
      try:
        return self._zip.read(name)
      except Exception as error:  # as above, and encrypted files
        raise self._damaged(f': {name}', error) from error

  def stamp(self, name):
    """Returns the size and the CRC-32."""
    info = self._zip.getinfo(name)
    return [info.file_size, info.CRC]

  def _damaged(self, name, error):
    return UserError(
      f'{self.path}{name} cannot be read ({error}); create the zip again'
    )


def _is_image(name):
  return name.lower().endswith(_SUFFIXES)


def _sort_out(names):
  """Returns the sorted names of images, and all other names."""
  images, others = [], []
  for name in names:
    (images if _is_image(name) else others).append(name)
  return sorted(images), others


def _read_labels(files, num_classes):
  """Returns the labels by file name.

  Raises:
    UserError: there are no labels, or they are not integers from 0 to the
      number of classes minus one.
  """
  where = f'{files.path}: {_LABELS}'
  if _LABELS not in files.others:
    raise UserError(
      f'{where} is missing; it gives the class of each image: write it, or set '
      '--config.dataset.args.class_conditional=False'
    )
  try:
    labels = json.loads(files.read(_LABELS))['labels']
    labels = {name: operator.index(label) for name, label in labels}
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(
      f'{where} must be {{"labels": [["NAME", CLASS], ...]}} with integers as '
      'classes'
    ) from error
  if not labels:
    raise UserError(f'{where} has no labels')
  limit = num_classes or _MAX_CLASSES
  for name, label in labels.items():
    if not 0 <= label < limit:
      raise UserError(
        f'{where} gives {name} the class {label}, but classes must be 0 to '
        f'{limit - 1}; correct it, or set dataset.args.num_classes for a new '
        'run'
      )
  return labels
