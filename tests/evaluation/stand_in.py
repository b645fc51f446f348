"""A network of random projections, and a data set of few colour images."""

import hashlib

import numpy as np
from scipy.special import softmax

from diffusion_distillation.data.dataset import ArrayExamples, Dataset
from diffusion_distillation.evaluation.statistics import Activations


class Projections:
  """A fast stand-in for Inception with the same interface."""

  name = description = 'projections'
  label = 'FID'
  num_features = 6

  def __init__(self, path='weights', resize='tf1'):
    self.checksum = hashlib.sha256(str(path).encode()).hexdigest()
    self.resize = resize
    self.images = 0  # number of images seen so far

  def __call__(self, images):
    self.images += len(images)
    x = images.reshape(len(images), -1) / 255.0
    rng = np.random.RandomState(0)
    features, spatial, logits = (
      (x @ rng.standard_normal((x.shape[1], d))).astype(np.float32)
      for d in (6, 5, 4)
    )
    return Activations(features, spatial, softmax(logits, axis=-1))


def images(seed, count):
  rng = np.random.RandomState(seed)
  return rng.randint(0, 256, (count, 4, 4, 3)).astype(np.uint8)


def colours(train=None, heldout=None):
  """Returns a Dataset of these images, or of random ones."""
  train = images(0, 40) if train is None else train
  heldout = images(1, 20) if heldout is None else heldout
  return Dataset(
    name='cifar10',
    open_train=lambda: ArrayExamples(train, np.zeros(len(train), np.int32)),
    open_heldout=lambda: ArrayExamples(
      heldout, np.zeros(len(heldout), np.int32)
    ),
    image_shape=(4, 4, 3),
    num_classes=1,
    random_flip=True,
  )
