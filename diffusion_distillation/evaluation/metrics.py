"""Distances between sets of features, in float64."""

import numpy as np
from scipy.linalg import lapack

_NEIGHBOURS = 3  # k of precision and recall


class Moments:
  """Mean and covariance of features that come in batches, in float64."""

  def __init__(self):
    self._count, self._mean, self._scatter = 0, 0.0, 0.0

  def add(self, features):
    """Takes in a batch of features, (N, D).

    Batches are merged about their own means (Chan et al. 1979), since sums of
    squares would cancel where the mean is large.
    """
    features = np.asarray(features, np.float64)
    mean = np.mean(features, axis=0)
    centred = features - mean
    total = self._count + len(features)
    delta = mean - self._mean
    weight = self._count * len(features) / total
    self._scatter += centred.T @ centred + weight * np.outer(delta, delta)
    self._mean = self._mean + delta * (len(features) / total)
    self._count = total

  def result(self):
    """Returns mean (D,) and unbiased covariance (D, D).

    Raises:
      ValueError: there were fewer than two.
    """
    if self._count < 2:
      raise ValueError(
        f'a covariance takes 2 images or more, got {self._count}'
      )
    return self._mean, self._scatter / (self._count - 1)


def frechet_distance(mean_1, cov_1, mean_2, cov_2):
  """Returns the squared Frechet distance of two Gaussians, as in FID.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017). With
  C1 = A A^T and C2 = B B^T the root's trace is the sum of the singular values
  of A^T B. That is exact for the singular covariances of few images (the
  eigenvalues of a product are not: 6e-8 off at 8 images), and then costs next
  to nothing, since A and B have as many columns as the covariances have rank.

  Args:
    mean_1: (D,).
    cov_1: (D, D).
    mean_2: (D,).
    cov_2: (D, D).
  """
  across = _factor(cov_1).T @ _factor(cov_2)
  trace = np.trace(cov_1) + np.trace(cov_2)
  trace -= 2 * np.sum(np.linalg.svd(across, compute_uv=False))
  return float(np.sum((mean_1 - mean_2) ** 2) + trace)


def _factor(cov):
  """Returns A (D, rank) with A A^T = cov, by a Cholesky factor with pivots."""
  lower, pivots, rank, _ = lapack.dpstrf(cov, lower=1)
  factor = np.empty((len(cov), rank))
  factor[pivots - 1] = np.tril(lower)[:, :rank]
  return factor


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


def inception_score(probabilities, splits=10):
  """Returns the mean and standard deviation of the splits' classifier_score.

  The splits are random, by a fixed seed, since images may come sorted by class,
  and of one size, but for one image (Salimans et al. 2016); fewer images than
  splits are as many splits.

  Args:
    probabilities: (N, K) class probabilities.
    splits: how many.
  """
  order = np.random.default_rng(0).permutation(len(probabilities))
  parts = np.array_split(probabilities[order], min(splits, len(order)))
  scores = [classifier_score(part) for part in parts]
  return float(np.mean(scores)), float(np.std(scores))


def kid(real, generated, subsets=100, most=1000):
  """Returns the kernel Inception distance (Binkowski et al. 2018).

  The unbiased estimate of MMD^2 with the kernel (x y / D + 1)^3, averaged over
  100 pairs of random subsets of 1,000 features, as StyleGAN and torch-fidelity
  do; where there are fewer features, of as many as the smaller set has.

  Args:
    real: (N, D) features.
    generated: (M, D) features.
    subsets: how many pairs.
    most: features of a subset, at most.

  Raises:
    ValueError: a set has fewer than two.
  """
  size = min(len(real), len(generated), most)
  if size < 2:
    raise ValueError('KID needs 2 images or more in each set')
  rng = np.random.default_rng(0)
  estimates = []
  for _ in range(subsets):
    x, y = (
      features[rng.choice(len(features), size, replace=False)]
      for features in (real, generated)
    )
    estimates.append(_mmd(x.astype(np.float64), y.astype(np.float64)))
  return float(np.mean(estimates))


def _mmd(x, y):
  """Returns the unbiased MMD^2 of x and y, (n, D) (Gretton et al. 2012)."""
  n, d = x.shape
  within = sum(
    np.sum(kernel) - np.trace(kernel)
    for kernel in ((z @ z.T / d + 1) ** 3 for z in (x, y))
  )
  return within / (n * (n - 1)) - 2 * np.mean((x @ y.T / d + 1) ** 3)


def precision_recall(real, generated, real_radii=None):
  """Returns precision and recall (Kynkaanniemi et al. 2019).

  Precision is the share of generated features that lie within the ball of some
  real one, which reaches to its third nearest neighbour; recall the reverse.

  Args:
    real: (N, D) features.
    generated: (M, D) features.
    real_radii: `radii(real)`, for whoever has them already.

  Raises:
    ValueError: a set has no more than 3 members.
  """
  if real_radii is None:
    real_radii = radii(real)
  generated_radii = radii(generated)
  real, generated = (x.astype(np.float64) for x in (real, generated))
  # Row by row in blocks: all distances of 50,000 images would take 20 GB.
  squares = np.sum(generated**2, axis=1)
  covered = np.zeros(len(generated), bool)
  covers = np.zeros(len(real), bool)
  for rows in _blocks(len(real)):
    across = _square_distances(real[rows], generated, squares)
    covered |= np.any(across <= real_radii[rows, None], axis=0)
    covers[rows] = np.any(across <= generated_radii, axis=1)
  return float(np.mean(covered)), float(np.mean(covers))


def radii(features):
  """Returns each feature's squared distance to its third neighbour, (N,).

  Args:
    features: (N, D).

  Raises:
    ValueError: there are no more than 3.
  """
  if len(features) <= _NEIGHBOURS:
    raise ValueError(
      f'precision and recall need more than {_NEIGHBOURS} images in each set, '
      f'got {len(features)}'
    )
  features = features.astype(np.float64)
  squares = np.sum(features**2, axis=1)
  found = np.empty(len(features))
  for rows in _blocks(len(features)):
    distances = _square_distances(features[rows], features, squares)
    # The nearest of all is the feature itself.
    nearest = np.partition(distances, _NEIGHBOURS, axis=1)
    found[rows] = nearest[:, _NEIGHBOURS]
  return found


def _square_distances(x, y, y_squares):
  """Returns |x_i - y_j|^2, (N, M); a product is 10 times as fast as cdist.

  Args:
    x: (N, D).
    y: (M, D).
    y_squares: |y_j|^2, (M,), the same for every block of x.
  """
  squares = x @ y.T
  squares *= -2
  squares += np.sum(x**2, axis=1)[:, None]
  squares += y_squares
  return np.maximum(squares, 0, out=squares)


def _blocks(length, size=500):
  return [slice(i, min(i + size, length)) for i in range(0, length, size)]
