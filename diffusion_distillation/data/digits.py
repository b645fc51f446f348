"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images, embedded."""

import numpy as np
from sklearn import datasets

from diffusion_distillation.data.dataset import ArrayExamples, Dataset

NUM_TRAIN = 1500  # of 1,797; the other 297 are held out


def load(class_conditional=True):
  """Returns the digits as (8, 8, 1) uint8 images with labels 0 to 9.

  Grey levels 0..16 become 0..255. The split is one fixed permutation, since the
  file's own order groups the writers. Digits are never flipped.

  Args:
    class_conditional: whether labels are used (10 classes) or not (1).
  """
  return Dataset(
    name='digits',
    image_shape=(8, 8, 1),
    num_classes=10 if class_conditional else 1,
    random_flip=False,
    open_train=lambda: _split(class_conditional)[0],
    open_heldout=lambda: _split(class_conditional)[1],
  )


def _split(class_conditional):
  """Returns the examples to train on, and those held out."""
  bunch = datasets.load_digits()
  images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = bunch.target.astype(np.int32)
  if not class_conditional:
    labels = np.zeros_like(labels)
  order = np.random.RandomState(0).permutation(len(images))
  parts = order[:NUM_TRAIN], order[NUM_TRAIN:]
  return [ArrayExamples(images[part], labels[part]) for part in parts]
