"""What a data set is, and the data sets there are."""

import dataclasses
import functools
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

Examples = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Random-access examples {'image': (H, W, C) uint8, 'label': int32}.

  What it is like is known at once; its data are opened on first use, and raise
  ValueError if they are not there.

  Attributes:
    name: of the data set.
    image_shape: (H, W, C).
    num_classes: 1 where labels are not used.
    random_flip: whether training flips images left to right, at random.
    open_train: () -> examples to train on.
    open_heldout: () -> examples never trained on.
  """

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int
  random_flip: bool
  open_train: Callable[[], Examples]
  open_heldout: Callable[[], Examples]

  @functools.cached_property
  def train(self):
    """The examples to train on."""
    return self.open_train()

  @functools.cached_property
  def heldout(self):
    """The examples never trained on."""
    return self.open_heldout()


class ArrayExamples(Sequence):
  """Examples in memory."""

  def __init__(self, images, labels):
    """Takes images (N, H, W, C) uint8 and labels (N,) int32."""
    self._images, self._labels = images, labels

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return {'image': self._images[index], 'label': self._labels[index]}


# name -> its function (**dataset.args) -> Dataset; imported when asked for.
DATASETS = {
  'digits': 'diffusion_distillation.data.digits:load',
  'cifar10': 'diffusion_distillation.data.tfds:cifar10',
  'imagenet64': 'diffusion_distillation.data.tfds:imagenet64',
  'lsun_bedroom128': 'diffusion_distillation.data.tfds:lsun_bedroom128',
  'lsun_church128': 'diffusion_distillation.data.tfds:lsun_church128',
  'folder': 'diffusion_distillation.data.folder:load',
}


def loader(name):
  """Returns the function (**dataset.args) -> Dataset of a data set.

  Raises:
    ValueError: the name is unknown.
  """
  if name not in DATASETS:
    known = ', '.join(DATASETS)
    raise ValueError(f'unknown data set {name!r}; known: {known}')
  return pkgutil.resolve_name(DATASETS[name])


def load_dataset(name, args):
  """Returns the Dataset of that name.

  Args:
    name: one of DATASETS.
    args: mapping, the keyword arguments of its loader (`dataset.args`).

  Raises:
    ValueError: the name or an argument is unknown.
  """
  load = loader(name)
  known = list(inspect.signature(load).parameters)
  for key in args:
    if key not in known:
      raise ValueError(
        f'dataset.args.{key} means nothing to {name!r}; known: '
        f'{", ".join(known)}'
      )
  return load(**args)
