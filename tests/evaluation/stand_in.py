"""A network of random projections, and a data set of few colour images."""

import hashlib

import numpy as np
from scipy.special import softmax

from diffusion_distillation.data.dataset import Dataset
from diffusion_distillation.evaluation.inception import Activations


class Projections:
  """Stands in for Inception: small, at once, of the same interface."""

  name = 'projections'
  num_features = 6

  def __init__(self, path='weights'):
    self.checksum = hashlib.sha256(str(path).encode()).hexdigest()
    self.images = 0  # seen so far

  def __call__(self, images):
    self.images += len(images)
    x = images.reshape(len(images), -1) / 255.0
    rng = np.random.RandomState(0)
    features, spatial, logits = (
      (x @ rng.standard_normal((x.shape[1], d))).astype(np.float32)
      for d in (6, 5, 4)
    )
    return Activations(features, spatial, softmax(logits, axis=-1))


def examples(seed, count):
  rng = np.random.RandomState(seed)
  images = rng.randint(0, 256, (count, 4, 4, 3)).astype(np.uint8)
  return [{'image': image, 'label': 0} for image in images]


def colours(num_train=40, seed=0):
  return Dataset(
    name='cifar10',
    open_train=lambda: examples(seed, num_train),
    open_heldout=lambda: examples(1, 20),
    image_shape=(4, 4, 3),
    num_classes=1,
    random_flip=True,
  )
