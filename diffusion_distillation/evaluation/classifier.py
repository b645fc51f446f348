"""A small classifier of digits, whose features are used to measure digits."""

import hashlib
import pathlib

import numpy as np
from scipy.special import softmax

from diffusion_distillation.evaluation.statistics import Activations

# Name of the data set -> (name of the features, file of weights). The script
# `fit_digits_classifier` made the file.
CLASSIFIERS = {'digits': ('digits-mlp-relu64', 'digits_classifier.npz')}


class Classifier:
  """A multilayer perceptron whose last hidden layer gives the features.

  Attributes:
    name: name of the features.
    description: the same, for the protocol.
    label: name of Frechet distances between these features.
    num_features: number of features.
    checksum: SHA-256 of the file of weights, in hexadecimal.
    resize: None, since images are not resized.
  """

  label = 'Frechet distance'
  resize = None

  def __init__(self, dataset_name):
    """Reads the weights.

    Args:
      dataset_name: a name in CLASSIFIERS.

    Raises:
      ValueError: there is no classifier for this data set.
    """
    if dataset_name not in CLASSIFIERS:
      known = ', '.join(CLASSIFIERS)
      raise ValueError(
        f'no classifier for data set {dataset_name!r}; known: {known}'
      )
    self.name, file_name = CLASSIFIERS[dataset_name]
    self.description = self.name
    path = pathlib.Path(__file__).with_name(file_name)
    self.checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    with np.load(path) as weights:
      self._weights = {k: v.astype(np.float64) for k, v in weights.items()}
    self.num_features = len(self._weights['bias_1'])

  def __call__(self, images):
    """Returns Activations: features (N, 64), probabilities (N, 10), float64.

    Args:
      images: (N, H, W, C) uint8.
    """
    h, w = images.reshape(len(images), -1) / 255.0, self._weights
    h = np.maximum(h @ w['kernel_0'] + w['bias_0'], 0)
    features = np.maximum(h @ w['kernel_1'] + w['bias_1'], 0)
    logits = features @ w['kernel_2'] + w['bias_2']
    return Activations(features, None, softmax(logits, axis=-1))
