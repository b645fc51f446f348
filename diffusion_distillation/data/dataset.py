"""The table of data sets, and the interface that they share.

A new data set is one file with a function that returns a `Dataset`, and one row
in `DATASETS`.
"""

import dataclasses
import functools
import hashlib
import json
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from diffusion_distillation.runtime.arguments import check_arguments


class Examples(Protocol):
  """Random access to the examples of one split."""

  def __len__(self) -> int:
    """Returns the number of examples."""

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns one example.

    Returns:
      {'image': (H, W, C) uint8, 'label': int32}.

    Raises:
      UserError: the example cannot be read.
    """

  def fingerprint(self) -> str:
    """Returns a hexadecimal checksum that changes with any of the examples."""


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set: its shape is known at once, its examples are opened on use.

  Attributes:
    name: name of the data set.
    image_shape: (H, W, C).
    num_classes: number of classes; 1 if labels are not used.
    random_flip: whether training flips half of the images left to right.
    open_train: () -> Examples to train on. Raises UserError if the data are
      missing or damaged.
    open_heldout: () -> Examples that are never trained on; raises the same.
  """

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int
  random_flip: bool
  open_train: Callable[[], Examples]
  open_heldout: Callable[[], Examples]

  @functools.cached_property
  def train(self):
    """The Examples to train on."""
    return self.open_train()

  @functools.cached_property
  def heldout(self):
    """The Examples that are never trained on."""
    return self.open_heldout()

  def fingerprint(self, split):
    """Returns a hexadecimal checksum of a split.

    It changes if any image or label changes, or the way images are resized.
    Images in memory are hashed whole. For files, what the file system or the
    archive knows about them is hashed.

    Args:
      split: 'train' or 'heldout'.
    """
    return getattr(self, split).fingerprint()

  def describe(self):
    """Returns the sizes: '58,800 training and 1,200 held-out images'."""
    train, heldout = len(self.train), len(self.heldout)
    return f'{train:,} training and {heldout:,} held-out images'


class ArrayExamples(Sequence):
  """Examples in memory."""

  def __init__(self, images, labels):
    """Takes images (N, H, W, C) uint8 and labels (N,) int32."""
    self._images, self._labels = images, labels

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return {'image': self._images[index], 'label': self._labels[index]}

  def fingerprint(self):
    """Returns the SHA-256 of all images and labels."""
    digest = hashlib.sha256()
    for array in (self._images, self._labels):
      digest.update(f'{array.dtype} {array.shape}'.encode())
      digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def digest(values):
  """Returns the SHA-256 of JSON values, in hexadecimal."""
  return hashlib.sha256(json.dumps(values).encode()).hexdigest()


# name -> function (**dataset.args) -> Dataset. Modules are imported only when
# their data set is used: TensorFlow Datasets takes a while to import.
DATASETS = {
  'digits': 'diffusion_distillation.data.digits:load',
  'cifar10': 'diffusion_distillation.data.tfds:cifar10',
  'imagenet64': 'diffusion_distillation.data.tfds:imagenet64',
  'lsun_bedroom128': 'diffusion_distillation.data.tfds:lsun_bedroom128',
  'lsun_church128': 'diffusion_distillation.data.tfds:lsun_church128',
  'mnist': 'diffusion_distillation.data.mnist:mnist',
  'fashion_mnist': 'diffusion_distillation.data.mnist:fashion_mnist',
  'kmnist': 'diffusion_distillation.data.mnist:kmnist',
  'emnist': 'diffusion_distillation.data.mnist:emnist',
  'folder': 'diffusion_distillation.data.image_folder:load',
}


def load_dataset(name, args):
  """Returns the Dataset of a name.

  Args:
    name: a key of DATASETS.
    args: mapping of keyword arguments for its function (`dataset.args`).

  Raises:
    ValueError: the name or an argument is unknown or has a bad value.
  """
  if name not in DATASETS:
    known = ', '.join(DATASETS)
    raise ValueError(f'unknown dataset.name {name!r}; known: {known}')
  load = pkgutil.resolve_name(DATASETS[name])
  check_arguments(load, args, 'dataset.args.')
  return load(**args)
