"""The paper's data sets, from TensorFlow Datasets, without TensorFlow.

They are read as array_record, a format of random access, which
`python -m diffusion_distillation.data.prepare` writes once. Nothing is ever
downloaded here.
"""

import functools

from google.protobuf import json_format

from diffusion_distillation.data import images
from diffusion_distillation.data.dataset import Dataset
from diffusion_distillation.data.records import (
  RecordExamples,
  check_shards,
  in_memory,
)

# name -> its name in TensorFlow Datasets, and the split that is held out.
SOURCES = {
  'cifar10': ('cifar10', 'test'),
  'imagenet64': ('imagenet2012', 'validation'),
  'lsun_bedroom128': ('lsun/bedroom', 'validation'),
  'lsun_church128': ('lsun/church_outdoor', 'validation'),
}


def cifar10(class_conditional=False, random_flip=True, data_dir=None):
  """Returns CIFAR-10, 32 x 32, held in memory.

  Args:
    class_conditional: whether labels are used (10 classes) or not (1).
    random_flip: whether training flips images.
    data_dir: of TensorFlow Datasets; None is its default.
  """
  return _dataset(
    'cifar10', 32, None, 10 if class_conditional else 1, random_flip, data_dir
  )


def imagenet64(class_conditional=True, random_flip=True, data_dir=None):
  """Returns ImageNet (ILSVRC 2012): the central square, area-resized to 64.

  Args:
    class_conditional: whether labels are used (1,000 classes) or not (1).
    random_flip: whether training flips images.
    data_dir: of TensorFlow Datasets; None is its default.
  """
  num_classes = 1000 if class_conditional else 1
  return _dataset('imagenet64', 64, 'area', num_classes, random_flip, data_dir)


def lsun_bedroom128(random_flip=True, data_dir=None):
  """Returns LSUN bedroom: the central square, resized to 128, antialiased.

  Args:
    random_flip: whether training flips images.
    data_dir: of TensorFlow Datasets; None is its default.
  """
  return _dataset('lsun_bedroom128', 128, 'antialias', 1, random_flip, data_dir)


def lsun_church128(random_flip=True, data_dir=None):
  """Returns LSUN church: the central square, resized to 128, antialiased.

  Args:
    random_flip: whether training flips images.
    data_dir: of TensorFlow Datasets; None is its default.
  """
  return _dataset('lsun_church128', 128, 'antialias', 1, random_flip, data_dir)


def _dataset(name, size, method, num_classes, random_flip, data_dir):
  """Returns a Dataset; `method` None keeps the images, in memory."""

  def open_split(split):
    examples = RecordExamples(
      open_source(name, split, data_dir),
      f'{name} {split}',
      method and functools.partial(images.square, size=size, method=method),
      conditional=num_classes > 1,
    )
    return examples if method else in_memory(examples)

  return Dataset(
    name=name,
    image_shape=(size, size, 3),
    num_classes=num_classes,
    random_flip=random_flip,
    open_train=functools.partial(open_split, 'train'),
    open_heldout=functools.partial(open_split, SOURCES[name][1]),
  )


def open_builder(name, data_dir):
  """Returns the builder of a data set, which need not be prepared.

  Args:
    name: one of SOURCES.
    data_dir: of TensorFlow Datasets; None is its default.

  Raises:
    ValueError: its description is damaged.
  """
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(SOURCES[name][0], data_dir=data_dir)
  except json_format.ParseError as error:
    raise ValueError(
      f'the dataset_info.json of {name} is damaged; remove its folder, and '
      'prepare it again'
    ) from error


def is_prepared(name, builder):
  """Returns whether a data set's splits are all there, as array_record.

  Raises:
    ValueError: they are there in a format without random access, or damaged.
  """
  splits = builder.info.splits
  for split in ('train', SOURCES[name][1]):
    if split not in splits:
      return False
    if not all(path.exists() for path in splits[split].filepaths):
      return False
  file_format = builder.info.file_format.value
  if file_format != 'array_record':
    raise ValueError(
      f'{builder.data_path} holds {name} as {file_format}, which cannot be '
      'read at random; prepare it in another data_dir, or remove that folder'
    )
  for split in ('train', SOURCES[name][1]):
    check_shards(f'{name} {split}', splits[split], builder.data_path)
  return True


def open_source(name, split, data_dir):
  """Returns the records of a split, images as the bytes of their files.

  Args:
    name: one of SOURCES.
    split: of TensorFlow Datasets, such as 'train'.
    data_dir: of TensorFlow Datasets; None is its default.

  Raises:
    ValueError: the data set is not prepared; the line says how to.
  """
  import tensorflow_datasets as tfds

  builder = open_builder(name, data_dir)
  if not is_prepared(name, builder):
    where = f' --data_dir={data_dir}' if data_dir else ''
    raise ValueError(
      f'{name} is not prepared in {builder.data_path}; prepare it once: '
      f'python -m diffusion_distillation.data.prepare --dataset={name}{where}'
    )
  return builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )


def download(builder):
  """Downloads a data set and writes it as array_record, showing progress.

  Args:
    builder: a builder.

  Raises:
    OSError: of the network or the file system; what is finished is kept.
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
    raise OSError(f'{builder.name} cannot be downloaded: {error}') from error
