"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images, no download."""

import functools

import numpy as np
from sklearn import datasets

from diffusion_distillation.data.dataset import ArrayExamples, Dataset

NUM_TRAIN = 1500  # of 1,797; the other 297 are held out


def load(class_conditional: bool = True):
  """Returns the digits as (8, 8, 1) uint8 images with labels 0 to 9.

  Grey levels 0 to 16 become 0 to 255. The images are shuffled before they are
  split, in a fixed order, because the file groups them by writer. Digits are
  not flipped.

  Args:
    class_conditional: whether labels are used (10 classes) or not (1 class).
  """
  return Dataset(
    name='digits',
    image_shape=(8, 8, 1),
    num_classes=10 if class_conditional else 1,
    random_flip=False,
    open_train=functools.partial(
      _examples, slice(NUM_TRAIN), class_conditional
    ),
    open_heldout=functools.partial(
      _examples, slice(NUM_TRAIN, None), class_conditional
    ),
  )


def _examples(part, class_conditional):
  """Returns a part of the shuffled digits."""
  bunch = datasets.load_digits()
  images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = bunch.target.astype(np.int32)
  if not class_conditional:
    labels = np.zeros_like(labels)
  chosen = np.random.RandomState(0).permutation(len(images))[part]
  return ArrayExamples(images[chosen], labels[chosen])
