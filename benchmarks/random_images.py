"""A data set of random images, in memory."""

import numpy as np

from diffusion_distillation.data.dataset import ArrayExamples, Dataset


def dataset(count):
  """Returns a Dataset of that many images of CIFAR-10's size."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
  examples = ArrayExamples(images, np.zeros(count, np.int32))
  return Dataset(
    name='random',
    image_shape=(32, 32, 3),
    num_classes=1,
    random_flip=True,
    open_train=lambda: examples,
    open_heldout=lambda: examples,
  )
