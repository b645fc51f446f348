"""Networks that turn images into features and class probabilities."""

import pathlib

import numpy as np
from scipy.special import softmax

# name of the data set -> (name of the features, file of weights)
_CLASSIFIERS = {'digits': ('digits-mlp-relu64', 'digits_classifier.npz')}


class Classifier:
  """A small multilayer perceptron; its last hidden layer is the features.

  Attributes:
    name: what the features are called in a report.
  """

  def __init__(self, dataset_name):
    """Reads the weights that are kept for this data set.

    Raises:
      ValueError: there are none.
    """
    if dataset_name not in _CLASSIFIERS:
      known = ', '.join(_CLASSIFIERS)
      raise ValueError(
        f'no classifier to evaluate data set {dataset_name!r}; known: {known}'
      )
    self.name, file_name = _CLASSIFIERS[dataset_name]
    with np.load(pathlib.Path(__file__).with_name(file_name)) as weights:
      self._weights = dict(weights)

  def __call__(self, images):
    """Returns features (N, 64) and class probabilities (N, 10), float64.

    Args:
      images: (N, H, W, C) uint8.
    """
    h = images.reshape(len(images), -1) / 255.0
    w = {
      name: array.astype(np.float64) for name, array in self._weights.items()
    }
    h = np.maximum(h @ w['kernel_0'] + w['bias_0'], 0)
    features = np.maximum(h @ w['kernel_1'] + w['bias_1'], 0)
    logits = features @ w['kernel_2'] + w['bias_2']
    return features, softmax(logits, axis=-1)
