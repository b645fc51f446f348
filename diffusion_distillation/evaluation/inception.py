"""The Inception network, in whose features images are measured."""

from typing import NamedTuple

import numpy as np

from diffusion_distillation.errors import UserError
from diffusion_distillation.evaluation.inception_weights import HOW_TO_GET


class Activations(NamedTuple):
  """What a network says of N images.

  Attributes:
    features: (N, D).
    spatial: (N, 2023), for sFID; None where a network has none.
    probabilities: (N, K), of classes.
  """

  features: np.ndarray
  spatial: np.ndarray | None
  probabilities: np.ndarray


class Inception:
  """Reads the weights of the network."""

  def __init__(self, path):
    raise UserError(f'no weights of Inception at {path}: {HOW_TO_GET}')
