"""Networks that turn images into features and class probabilities."""

import hashlib
import pathlib

import numpy as np
from scipy.special import softmax

from diffusion_distillation.evaluation.inception import Activations, Inception
from diffusion_distillation.evaluation.inception_weights import HOW_TO_GET

NO_WEIGHTS = (
  f'FID takes the weights of Inception: {HOW_TO_GET} (beside --config=FILE)'
)
# name of the data set -> (name of the features, file of weights)
_CLASSIFIERS = {'digits': ('digits-mlp-relu64', 'digits_classifier.npz')}


def open_features(dataset_name, inception_path):
  """Returns the network in whose features a data set is measured, or None.

  It maps images, uint8 (N, H, W, C), to Activations, and has a name and a
  checksum: for digits their own classifier, for all else Inception.

  Args:
    dataset_name: of the data set.
    inception_path: of Inception's weights; None: there are none.

  Raises:
    UserError: the weights cannot be read.
  """
  if dataset_name in _CLASSIFIERS:
    return Classifier(dataset_name)
  return None if inception_path is None else Inception(inception_path)


class Classifier:
  """A small multilayer perceptron; its last hidden layer is the features.

  Attributes:
    name: what the features are called in a report.
    num_features: how many there are.
    checksum: SHA-256 of the weights' file, in hexadecimal.
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
    path = pathlib.Path(__file__).with_name(file_name)
    self.checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    with np.load(path) as weights:
      self._weights = dict(weights)
    self.num_features = len(self._weights['bias_1'])

  def __call__(self, images):
    """Returns Activations: features (N, 64), probabilities (N, 10), float64.

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
    return Activations(features, None, softmax(logits, axis=-1))
