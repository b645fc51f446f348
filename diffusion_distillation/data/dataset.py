"""What a data set is, and the data sets there are."""

import dataclasses
import importlib
import inspect
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Random-access examples {'image': (H, W, C) uint8, 'label': int}.

  Attributes:
    name: of the data set.
    train: examples to train on.
    heldout: examples never trained on.
    image_shape: (H, W, C).
    num_classes: 1 where labels are not used.
    random_flip: whether training flips images left to right, at random.
  """

  name: str
  train: Sequence[dict[str, Any]]
  heldout: Sequence[dict[str, Any]]
  image_shape: tuple[int, int, int]
  num_classes: int
  random_flip: bool


# name -> module with load(**dataset.args) -> Dataset; imported when asked for.
DATASETS = {'digits': 'diffusion_distillation.data.digits'}


def loader(name):
  """Returns the function (**dataset.args) -> Dataset of a data set.

  Raises:
    ValueError: the name is unknown.
  """
  if name not in DATASETS:
    known = ', '.join(DATASETS)
    raise ValueError(f'unknown data set {name!r}; known: {known}')
  return importlib.import_module(DATASETS[name]).load


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
