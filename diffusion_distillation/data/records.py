"""Examples of array_record files, and what to say of damaged ones."""

from collections.abc import Sequence

import numpy as np

from diffusion_distillation.data import images
from diffusion_distillation.data.dataset import ArrayExamples


class RecordExamples(Sequence):
  """Examples decoded and resized when they are asked for."""

  def __init__(self, source, what, prepare, conditional):
    """Takes the records.

    Args:
      source: of TensorFlow Datasets, images as the bytes of their files.
      what: data set and split, for errors.
      prepare: (image uint8) -> image; None keeps it as it is.
      conditional: whether labels are used, or all are 0.
    """
    self._source, self._what = source, what
    self._prepare, self._conditional = prepare, conditional

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    index = range(len(self))[index]  # an IndexError ends an iteration
    try:
      record = self._source[index]
    except Exception as error:  # of the reader, or of what parses the record
      folder = self._source.dataset_info.data_dir
      raise _damaged(self._what, folder, error) from error
    image = images.decode(record['image'], f'{self._what} record {index}')
    label = record['label'] if self._conditional else 0
    return {
      'image': self._prepare(image) if self._prepare else image,
      'label': np.int32(label),
    }


def in_memory(examples):
  """Returns the same examples, decoded once and held in memory."""
  every = list(examples)
  return ArrayExamples(
    np.stack([example['image'] for example in every]),
    np.array([example['label'] for example in every]),
  )


def check_shards(what, split, folder):
  """Checks that each file of a split has the records that it should have.

  Only their ends are read, in 0.1 ms each: ImageNet has a thousand files.

  Args:
    what: data set and split, for errors.
    split: SplitInfo of TensorFlow Datasets.
    folder: of the data set, for errors.

  Raises:
    ValueError: one of them has not.
  """
  from array_record.python import array_record_module

  for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
    reader = array_record_module.ArrayRecordReader(str(path))
    # A file that cannot be read has none; closing it would raise.
    if reader.num_records() != expected:
      raise _damaged(
        what,
        folder,
        f'{path.name} has {reader.num_records()} of {expected} records',
      )
    reader.close()


def _damaged(what, folder, reason):
  return ValueError(
    f'{what} is damaged ({" ".join(str(reason).split())[:200]}); move {folder} '
    'away and prepare it again'
  )
