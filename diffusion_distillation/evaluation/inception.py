"""The Inception network, in whose features images are measured."""

from typing import NamedTuple

import numpy as np

from diffusion_distillation.errors import UserError


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
    raise UserError(
      f'no Inception weights at {path}: fetch '
      'pt_inception-2015-12-05-6726825d.pth of the release fid_weights of '
      'pytorch-fid and give it as --config.eval.inception_path=PATH'
    )
