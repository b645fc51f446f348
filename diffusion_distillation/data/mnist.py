"""MNIST and the data sets in its format: small grey images of one thing each.

They are read from the four files that their authors publish, or from what
`python -m diffusion_distillation.data.prepare` made, and held in memory.
"""

import functools
import gzip
import math
import pathlib
import struct

import numpy as np

from diffusion_distillation.data import tfds
from diffusion_distillation.data.dataset import ArrayExamples, Dataset
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

# Where Debian's package dataset-fashion-mnist puts its files.
_DEBIAN = pathlib.Path('/usr/share/datasets/fashion-mnist')
_SIDE = 28  # height and width of the images in the files
IMAGE_SIZES = (14, _SIDE, 32)
# Each split has two files, whose names contain these parts.
_KINDS = 'images-idx3', 'labels-idx1'
_PREFIXES = {'emnist': 'emnist-balanced-'}
_HELDOUT = {'emnist': 'test'}  # t10k otherwise
_UINT8 = 8  # its code in the header of a file


def mnist(class_conditional: bool = False, image_size: int = 28, data_dir=None):
  """Returns MNIST: 60,000 training and 10,000 test images of digits.

  Args:
    class_conditional: whether labels are used (10 classes) or not (1 class).
    image_size: height and width: 28, as in the files, which is divisible by
      four; 32, with a black border, for networks that halve the image more
      often; or 14, whose pixels are means of four, for quick studies.
    data_dir: a folder with the four .gz files of the data set, or the folder of
      TensorFlow Datasets; None: the default of TensorFlow Datasets.

  Raises:
    ValueError: the size is none of these.
  """
  return _dataset('mnist', 10, class_conditional, image_size, data_dir)


def fashion_mnist(
  class_conditional: bool = False, image_size: int = 28, data_dir=None
):
  """Returns Fashion-MNIST: 60,000 training and 10,000 test images of clothes.

  Args:
    class_conditional: as in `mnist`.
    image_size: as in `mnist`.
    data_dir: as in `mnist`; None takes the files of Debian's package
      dataset-fashion-mnist where it is installed.

  Raises:
    ValueError: as in `mnist`.
  """
  if data_dir is None and _DEBIAN.exists():
    data_dir = str(_DEBIAN)
  return _dataset('fashion_mnist', 10, class_conditional, image_size, data_dir)


def kmnist(
  class_conditional: bool = False, image_size: int = 28, data_dir=None
):
  """Returns Kuzushiji-MNIST: 60,000 and 10,000 handwritten Japanese letters.

  Args:
    class_conditional: as in `mnist`.
    image_size: as in `mnist`.
    data_dir: as in `mnist`.

  Raises:
    ValueError: as in `mnist`.
  """
  return _dataset('kmnist', 10, class_conditional, image_size, data_dir)


def emnist(
  class_conditional: bool = False, image_size: int = 28, data_dir=None
):
  """Returns EMNIST Balanced: 112,800 and 18,800 handwritten letters and digits.

  Its files hold the images with rows and columns exchanged; here they stand
  upright.

  Args:
    class_conditional: whether labels are used (47 classes) or not (1 class).
    image_size: as in `mnist`.
    data_dir: as in `mnist`.

  Raises:
    ValueError: as in `mnist`.
  """
  return _dataset('emnist', 47, class_conditional, image_size, data_dir)


def _dataset(name, num_classes, class_conditional, image_size, data_dir):
  if image_size not in IMAGE_SIZES:
    raise ValueError(
      f'dataset.args.image_size={image_size} must be one of '
      f'{", ".join(map(str, IMAGE_SIZES))}'
    )

  def open_split(split):
    images, labels = _read(name, split, data_dir, num_classes)
    if name == 'emnist':
      images = images.swapaxes(1, 2)
    if not class_conditional:
      labels = np.zeros_like(labels)
    return ArrayExamples(_to_size(images, image_size)[..., None], labels)

  return Dataset(
    name=name,
    image_shape=(image_size, image_size, 1),
    num_classes=num_classes if class_conditional else 1,
    random_flip=False,
    open_train=functools.partial(open_split, 'train'),
    open_heldout=functools.partial(open_split, 'heldout'),
  )


def _read(name, split, data_dir, num_classes):
  """Returns the images (N, 28, 28) uint8 and labels (N,) int32 of a split."""
  if data_dir is not None:
    folder = pathlib.Path(data_dir)
    images, labels = (_find(folder, name, split, kind) for kind in _KINDS)
    if images or labels:
      return _read_pair(images, labels, folder, name, num_classes)
  try:
    return tfds.in_memory(name, split, data_dir)
  except UserError as error:
    raise UserError(
      f'{error}; or give the folder of its four .gz files as '
      'dataset.args.data_dir'
    ) from error


def _find(folder, name, split, kind):
  """Returns the path of a file, or None if there is no such file."""
  word = 'train' if split == 'train' else _HELDOUT.get(name, 't10k')
  stem = f'{_PREFIXES.get(name, "")}{word}-{kind}-ubyte'
  paths = [folder / f'{stem}{suffix}' for suffix in ('.gz', '')]
  return next((path for path in paths if path.exists()), None)


def _read_pair(images, labels, folder, name, num_classes):
  """Returns the arrays of two files, one of which may be missing (None)."""
  if images is None or labels is None:
    raise UserError(
      f'{folder} has {(images or labels).name}, but the {name} file of the '
      f'{"labels" if images else "images"} that belongs to it is missing'
    )
  x, y = _read_idx(images), _read_idx(labels)
  if x.shape[1:] != (_SIDE, _SIDE) or y.shape != x.shape[:1] or not len(x):
    raise UserError(
      f'{images} must have images of {_SIDE}x{_SIDE}, and {labels.name} a '
      f'label for each, but they have shapes {x.shape} and {y.shape}'
    )
  if y.max() >= num_classes:
    raise UserError(
      f'{labels} has the label {y.max()}, but {name} has {num_classes} classes'
    )
  return x, y.astype(np.int32)


def _read_idx(path):
  """Returns the uint8 array in an .idx file, which may be compressed.

  The header is two zero bytes, the code of the type, the number of dimensions,
  and each dimension as a big-endian uint32.
  """
  with files.reading(path):
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == '.gz' else data
    zero, dtype, ndim = struct.unpack_from('>HBB', data)
    shape = struct.unpack_from(f'>{ndim}I', data, 4)
    array = np.frombuffer(data, np.uint8, offset=4 + 4 * ndim)
    if (zero, dtype) != (0, _UINT8):
      raise ValueError('it is not an .idx file of bytes')
    if len(array) != math.prod(shape):
      raise ValueError(f'it has {len(array)} bytes of an array of {shape}')
  return array.reshape(shape)


def _to_size(images, size):
  """Returns images (N, 28, 28) in another of the IMAGE_SIZES."""
  if size < _SIDE:
    n, factor = len(images), _SIDE // size
    parts = images.reshape(n, size, factor, size, factor)
    return np.round(parts.mean(axis=(2, 4))).astype(np.uint8)
  border = (size - _SIDE) // 2
  return np.pad(images, ((0, 0), (border, border), (border, border)))
