"""Data sets from TensorFlow Datasets, read without TensorFlow.

They are read from array_record files, a format with random access, which
`python -m diffusion_distillation.data.prepare` writes once. Training never
downloads anything.
"""

import functools
from collections.abc import Sequence

import numpy as np
from google.protobuf import json_format

from diffusion_distillation.data.dataset import ArrayExamples, Dataset, digest
from diffusion_distillation.data.resize import crop_and_resize, decode
from diffusion_distillation.runtime.errors import UserError

# Name -> the name in TensorFlow Datasets, and the split that is held out.
SOURCES = {
  'cifar10': ('cifar10', 'test'),
  'imagenet64': ('imagenet2012', 'validation'),
  'lsun_bedroom128': ('lsun/bedroom', 'validation'),
  'lsun_church128': ('lsun/church_outdoor', 'validation'),
  'mnist': ('mnist', 'test'),
  'fashion_mnist': ('fashion_mnist', 'test'),
  'kmnist': ('kmnist', 'test'),
  'emnist': ('emnist/balanced', 'test'),
}


def cifar10(
  class_conditional: bool = False, random_flip: bool = True, data_dir=None
):
  """Returns CIFAR-10, 32 x 32, held in memory.

  Args:
    class_conditional: whether labels are used (10 classes) or not (1 class).
    random_flip: whether training flips half of the images left to right.
    data_dir: the folder of TensorFlow Datasets; None: its default.
  """
  num_classes = 10 if class_conditional else 1
  return _dataset('cifar10', 32, None, num_classes, random_flip, data_dir)


def imagenet64(
  class_conditional: bool = True, random_flip: bool = True, data_dir=None
):
  """Returns ImageNet (ILSVRC 2012): central squares, resized by area to 64.

  Args:
    class_conditional: whether labels are used (1,000 classes) or not (1 class).
    random_flip: whether training flips half of the images left to right.
    data_dir: the folder of TensorFlow Datasets; None: its default.
  """
  num_classes = 1000 if class_conditional else 1
  return _dataset('imagenet64', 64, 'area', num_classes, random_flip, data_dir)


def lsun_bedroom128(random_flip: bool = True, data_dir=None):
  """Returns LSUN bedroom: central squares, resized to 128 with antialiasing.

  Args:
    random_flip: whether training flips half of the images left to right.
    data_dir: the folder of TensorFlow Datasets; None: its default.
  """
  return _dataset('lsun_bedroom128', 128, 'antialias', 1, random_flip, data_dir)


def lsun_church128(random_flip: bool = True, data_dir=None):
  """Returns LSUN church: central squares, resized to 128 with antialiasing.

  Args:
    random_flip: whether training flips half of the images left to right.
    data_dir: the folder of TensorFlow Datasets; None: its default.
  """
  return _dataset('lsun_church128', 128, 'antialias', 1, random_flip, data_dir)


def _dataset(name, size, method, num_classes, random_flip, data_dir):
  """Returns a Dataset; without a resize method it is held in memory."""

  def open_split(split):
    builder = _open_prepared(name, data_dir)
    examples = _Records(builder, name, split, (size, method), num_classes > 1)
    return examples if method else ArrayExamples(*_arrays(examples))

  return Dataset(
    name=name,
    image_shape=(size, size, 3),
    num_classes=num_classes,
    random_flip=random_flip,
    open_train=functools.partial(open_split, 'train'),
    open_heldout=functools.partial(open_split, SOURCES[name][1]),
  )


class _Records(Sequence):
  """Examples that are read, decoded and resized on access."""

  def __init__(self, builder, name, split, resizing, conditional):
    """Opens a split.

    Args:
      builder: a builder of TensorFlow Datasets whose data are prepared.
      name: name of the data set.
      split: name of the split in TensorFlow Datasets.
      resizing: size and method of the resize; if the method is None, images are
        not resized.
      conditional: whether labels are used; otherwise all labels are 0.
    """
    import tensorflow_datasets as tfds

    self._split, self._folder = builder.info.splits[split], builder.data_path
    self._what, self._conditional = f'{name} {split}', conditional
    self._resizing = resizing
    self._source = builder.as_data_source(
      split, decoders={'image': tfds.decode.SkipDecoding()}
    )

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    index = range(len(self))[index]  # the IndexError that ends an iteration
    try:
      record = self._source[index]
    except Exception as error:  # the reader and the parser raise many types
      raise _damaged(self._what, self._folder, error) from error
    image = decode(record['image'], f'{self._what} record {index}')
    size, method = self._resizing
    label = record['label'] if self._conditional else 0
    return {
      'image': crop_and_resize(image, size, method) if method else image,
      'label': np.int32(label),
    }

  def fingerprint(self):
    """Returns a checksum of the split's description, file names and sizes.

    The description, which TensorFlow Datasets writes, has the version of the
    data set and the sizes of its downloads.
    """
    description = (self._folder / 'dataset_info.json').read_text()
    files = [[p.name, p.stat().length] for p in self._split.filepaths]
    return digest([description, files, self._resizing, self._conditional])


def in_memory(name, split, data_dir):
  """Returns the grey images and the labels of a data set in MNIST's format.

  Args:
    name: a key of SOURCES.
    split: 'train' or 'heldout'.
    data_dir: the folder of TensorFlow Datasets; None: its default.

  Returns:
    (N, H, W) uint8 and (N,) int32.

  Raises:
    UserError: the data set is not prepared, or damaged.
  """
  split = {'train': 'train', 'heldout': SOURCES[name][1]}[split]
  builder = _open_prepared(name, data_dir)
  images, labels = _arrays(_Records(builder, name, split, (None, None), True))
  return images[..., 0], labels  # grey images are decoded to RGB


def _arrays(examples):
  """Returns the images and the labels of examples."""
  every = list(examples)
  return (
    np.stack([example['image'] for example in every]),
    np.array([example['label'] for example in every]),
  )


def open_builder(name, data_dir):
  """Returns the builder of a data set, which need not be prepared.

  Args:
    name: a key of SOURCES.
    data_dir: the folder of TensorFlow Datasets; None: its default.

  Raises:
    UserError: the description of the data set is damaged.
  """
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(SOURCES[name][0], data_dir=data_dir)
  except json_format.ParseError as error:
    raise UserError(
      f'the dataset_info.json of {name} is damaged; remove its folder and '
      'prepare the data set again'
    ) from error


def _open_prepared(name, data_dir):
  """Returns the builder of a data set, which must be prepared."""
  builder = open_builder(name, data_dir)
  if not is_prepared(name, builder):
    flag = f' --data_dir={data_dir}' if data_dir else ''
    raise UserError(
      f'{name} is not prepared in {builder.data_path}; prepare it once with '
      f'python -m diffusion_distillation.data.prepare --dataset={name}{flag}'
    )
  return builder


def is_prepared(name, builder):
  """Returns whether all files of a data set are there, as array_record.

  Args:
    name: a key of SOURCES.
    builder: builder of the data set.

  Raises:
    UserError: files are damaged, or in a format without random access.
  """
  splits = [builder.info.splits.get(s) for s in ('train', SOURCES[name][1])]
  if None in splits:
    return False
  if not all(path.exists() for split in splits for path in split.filepaths):
    return False
  file_format = builder.info.file_format.value
  if file_format != 'array_record':
    raise UserError(
      f'{builder.data_path} holds {name} as {file_format}, which has no random '
      'access; prepare it in another data_dir, or remove that folder'
    )
  for split in splits:
    _check_shards(f'{name} {split.name}', split, builder.data_path)
  return True


def _check_shards(what, split, folder):
  """Checks that each file of a split has its number of records.

  Only the end of a file is read, in 0.1 ms: ImageNet has a thousand files.
  """
  from array_record.python import array_record_module

  for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
    reader = array_record_module.ArrayRecordReader(str(path))
    count = reader.num_records()
    if count != expected:
      # The reader is not closed, since that raises if the file is damaged.
      reason = f'{path.name} has {count} of {expected} records'
      raise _damaged(what, folder, reason)
    reader.close()


def _damaged(what, folder, reason):
  """Returns the UserError for damaged files."""
  return UserError(
    f'{what} is damaged ({" ".join(str(reason).split())[:200]}); move {folder} '
    'away and prepare it again'
  )


def download(builder):
  """Downloads a data set and writes it as array_record, showing progress.

  Args:
    builder: a builder of TensorFlow Datasets.

  Raises:
    UserError: a download or an archive is damaged.
    OSError: the network or the file system fails; finished files are kept.
  """
  from tensorflow_datasets.core.download import (
    download_manager,
    extractor,
    util,
  )

  try:
    builder.download_and_prepare(file_format='array_record')
  except (
    util.DownloadError,
    download_manager.NonMatchingChecksumError,
    extractor.ExtractError,
  ) as error:
    raise UserError(
      f'{builder.name} cannot be downloaded ({error}); try again later'
    ) from error
