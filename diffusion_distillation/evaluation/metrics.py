"""Distances between sets of features, in float64."""

import numpy as np
from scipy.spatial import distance


def statistics(features):
  """Returns mean (D,) and covariance (D, D) of features (N, D).

  Raises:
    ValueError: there are fewer than two.
  """
  if len(features) < 2:
    raise ValueError(
      f'a covariance takes 2 images or more, got {len(features)}'
    )
  return np.mean(features, axis=0), np.cov(features, rowvar=False)


def frechet_distance(mean_1, cov_1, mean_2, cov_2):
  """Returns the squared Frechet distance of two Gaussians, as in FID.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017). C1 C2 has
  the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), which stay real and at
  least 0 where a general matrix root of singular covariances may not.

  Args:
    mean_1: (D,).
    cov_1: (D, D).
    mean_2: (D,).
    cov_2: (D, D).
  """
  values, vectors = np.linalg.eigh(cov_1)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.linalg.eigvalsh(root @ cov_2 @ root)
  trace = np.trace(cov_1) + np.trace(cov_2)
  trace -= 2 * np.sum(np.sqrt(np.maximum(cross, 0)))
  return float(np.sum((mean_1 - mean_2) ** 2) + trace)


def classifier_score(probabilities):
  """Returns exp(mean KL(p(y|x) || p(y))), the Inception Score's formula.

  From 1 (all alike) to the number of classes (sure, and each class as often as
  any other) (Salimans et al. 2016), over all images at once.

  Args:
    probabilities: (N, K) class probabilities.
  """
  marginal = np.mean(probabilities, axis=0)
  # A zero probability counts 0 log 0 = 0.
  ratio = np.divide(
    probabilities,
    marginal,
    out=np.ones_like(probabilities),
    where=probabilities > 0,
  )
  return float(np.exp(np.mean(np.sum(probabilities * np.log(ratio), axis=1))))


def precision_recall(real, generated, num_neighbours=3):
  """Returns precision and recall (Kynkaanniemi et al. 2019).

  Precision is the share of generated features that lie within the k-nearest-
  neighbour ball of some real one; recall the reverse.

  Args:
    real: (N, D) features.
    generated: (M, D) features.
    num_neighbours: k, not counting the point itself.

  Raises:
    ValueError: a set has no more than num_neighbours members.
  """
  if min(len(real), len(generated)) <= num_neighbours:
    raise ValueError(
      f'precision and recall need more than {num_neighbours} images in each '
      f'set, got {len(real)} and {len(generated)}'
    )
  radii_real = _radii(real, num_neighbours)
  radii_generated = _radii(generated, num_neighbours)
  # Row by row in blocks: all distances of 50,000 images would take 20 GB.
  covered = np.zeros(len(generated), bool)
  covers = np.zeros(len(real), bool)
  for rows in _blocks(len(real)):
    across = distance.cdist(real[rows], generated)
    covered |= np.any(across <= radii_real[rows, None], axis=0)
    covers[rows] = np.any(across <= radii_generated, axis=1)
  return float(np.mean(covered)), float(np.mean(covers))


def _radii(features, num_neighbours):
  """Returns each feature's distance to its k-th nearest neighbour, (N,)."""
  radii = np.empty(len(features))
  for rows in _blocks(len(features)):
    distances = distance.cdist(features[rows], features)
    nearest = np.partition(distances, num_neighbours, axis=1)
    radii[rows] = nearest[:, num_neighbours]
  return radii


def _blocks(length, size=1000):
  return [slice(i, min(i + size, length)) for i in range(0, length, size)]
