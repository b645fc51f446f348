"""Metrics that compare two sets of features, computed in float64."""

from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

# k of precision and recall, and k of density and coverage.
NUM_NEIGHBOURS = (3, 5)


class Moments:
  """Running mean and covariance of features that arrive in batches."""

  def __init__(self):
    self._count, self._mean, self._scatter = 0, 0.0, 0.0

  def add(self, features):
    """Adds a batch of features, (N, D) of any float type.

    Each batch is centred on its own mean before it is merged (Chan et al.
    1979): sums of squares would cancel where the mean is large.
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
    """Returns the mean (D,) and the unbiased covariance (D, D).

    Raises:
      ValueError: fewer than two features were added.
    """
    if self._count < 2:
      raise ValueError(
        f'a covariance needs 2 images or more, got {self._count}'
      )
    return self._mean, self._scatter / (self._count - 1)


def frechet_distance(mean_1, cov_1, mean_2, cov_2):
  """Returns the squared Frechet distance between two Gaussians, as in FID.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))  (Heusel et al. 2017)

  With C1 = A A^T and C2 = B B^T, the trace of the root is the sum of the
  singular values of A^T B. This is exact even for the singular covariances of
  few images, where the eigenvalues of C1 C2 are not (6e-8 off at 8 images).

  Args:
    mean_1: (D,).
    cov_1: (D, D).
    mean_2: (D,).
    cov_2: (D, D).
  """
  product = _cholesky_factor(cov_1)[0].T @ _cholesky_factor(cov_2)[0]
  trace = np.trace(cov_1) + np.trace(cov_2)
  trace -= 2 * np.sum(np.linalg.svd(product, compute_uv=False))
  return float(np.sum((mean_1 - mean_2) ** 2) + trace)


def _cholesky_factor(cov):
  """Returns A (D, rank) with A A^T = cov, and rows (rank,) of its triangle.

  A[rows] is lower triangular and not singular.
  """
  lower, pivots, rank, _ = lapack.dpstrf(cov, lower=1)
  factor = np.empty((len(cov), rank))
  factor[pivots - 1] = np.tril(lower)[:, :rank]
  return factor, pivots[:rank] - 1


def frechet_distance_error(mean, cov, features):
  """Returns the standard error of the Frechet distance of generated features.

  The error says how much the distance would vary with other seeds. The
  reference is taken as exact. To first order, an image x moves the distance of
  N images by influence(x) / N:

    influence(x) = 2 (m2 - m1)^T d + |d|^2 - d^T T d + const,    d = x - m2

  where T = C1^(1/2) (C1^(1/2) C2 C1^(1/2))^(-1/2) C1^(1/2) is the derivative of
  2 tr (C1 C2)^(1/2) with respect to C2. The error is the standard deviation of
  the influences, divided by the root of N (Hampel 1974). With C2 = A A^T and
  d = A y, the last term is d^T T d = y^T (A^T C1 A)^(1/2) y. That takes one
  eigenvalue problem: 3 seconds for 10,000 images and 2048 features on 2 cores.

  The estimate errs on the safe side: where the distance is mostly the bias of
  few images, it is up to 1.6 times too large (measured on Gaussian data). The
  bias itself is not part of it, since it is about the same in all distances of
  the same number of images.

  Args:
    mean: (D,) of the reference.
    cov: (D, D) of the reference.
    features: (N, D) of the generated images, N of 2 or more.
  """
  moments = Moments()
  moments.add(features)
  generated_mean, generated_cov = moments.result()
  # T is not defined beyond the range of C2, and no image lies there.
  factor, rows = _cholesky_factor(generated_cov)
  squares, rotation = np.linalg.eigh(factor.T @ cov @ factor)
  roots = np.sqrt(np.maximum(squares, 0))
  whiten = linalg.solve_triangular(
    factor[rows], rotation, trans='T', lower=True
  )
  shift = 2 * (generated_mean - mean)
  influences = np.empty(len(features))
  for part in _blocks(len(features)):
    d = features[part].astype(np.float64) - generated_mean
    influences[part] = d @ shift + np.sum(d**2, axis=1)
    influences[part] -= (d[:, rows] @ whiten) ** 2 @ roots
  return float(np.std(influences, ddof=1) / np.sqrt(len(features)))


def classifier_score(probabilities):
  """Returns exp(mean KL(p(y|x) || p(y))), the formula of the Inception Score.

  It is 1 where all images get the same prediction, and K where predictions are
  certain and all classes equally frequent (Salimans et al. 2016).

  Args:
    probabilities: (N, K) class probabilities.
  """
  marginal = np.mean(probabilities, axis=0)
  # A zero probability contributes 0 log 0 = 0.
  ratio = np.divide(
    probabilities,
    marginal,
    out=np.ones_like(probabilities),
    where=probabilities > 0,
  )
  return float(np.exp(np.mean(np.sum(probabilities * np.log(ratio), axis=1))))


def inception_score(probabilities, splits=10):
  """Returns mean and standard deviation of `classifier_score` over splits.

  The splits are random with a fixed seed, since images may come sorted by
  class, and equal in size up to one image (Salimans et al. 2016).

  Args:
    probabilities: (N, K) class probabilities.
    splits: number of splits; at most one per image.
  """
  order = np.random.default_rng(0).permutation(len(probabilities))
  parts = np.array_split(probabilities[order], min(splits, len(order)))
  scores = [classifier_score(part) for part in parts]
  return float(np.mean(scores)), float(np.std(scores))


def kid(real, generated, subsets=100, max_size=1000):
  """Returns the kernel Inception distance (Binkowski et al. 2018).

  The unbiased estimate of MMD^2 with the kernel (x y / D + 1)^3, averaged over
  pairs of random subsets with a fixed seed, as StyleGAN and torch-fidelity do.

  Args:
    real: (N, D) features.
    generated: (M, D) features.
    subsets: number of pairs of subsets.
    max_size: features per subset, or as many as the smaller set has.

  Raises:
    ValueError: a set has fewer than two features.
  """
  size = min(len(real), len(generated), max_size)
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


class Neighbours(NamedTuple):
  """Where generated features are relative to real ones; see `neighbours`."""

  precision: float
  recall: float
  density: float
  coverage: float
  nearest: np.ndarray  # (M,) squared distances to the nearest real feature


def neighbours(real, generated, real_radii=None):
  """Compares M generated features with N real ones by nearest neighbours.

  B_k(x) is the ball around a feature x whose radius is the distance to its k-th
  nearest neighbour in its own set.

  Precision: the share of generated features that lie in B_3 of some real one.
  Recall is the same with the two sets exchanged (Kynkaanniemi et al. 2019).

  Density: the number of pairs with a generated feature in B_5 of a real one,
  divided by 5 M. Coverage: the share of real features whose B_5 has a generated
  feature (Naeem et al. 2020, arXiv 2002.09797, Eqs. 3 and 4).

  Args:
    real: (N, D) features.
    generated: (M, D) features.
    real_radii: `knn_radii(real)`, if the caller has them already.

  Raises:
    ValueError: a set has no more than 5 features.
  """
  if real_radii is None:
    real_radii = knn_radii(real)
  generated_radii = knn_radii(generated)[0]
  real, generated = (x.astype(np.float64) for x in (real, generated))
  # Blocks of rows are used, since all distances of 50,000 images take 20 GB.
  squares = np.sum(generated**2, axis=1)
  precise = np.zeros(len(generated), bool)
  nearest = np.full(len(generated), np.inf)
  recalled, covered = np.zeros((2, len(real)), bool)
  pairs = 0
  for rows in _blocks(len(real)):
    distances = _square_distances(real[rows], generated, squares)
    precise |= np.any(distances <= real_radii[0, rows, None], axis=0)
    recalled[rows] = np.any(distances <= generated_radii, axis=1)
    inside = distances <= real_radii[1, rows, None]
    covered[rows] = np.any(inside, axis=1)
    pairs += np.count_nonzero(inside)
    np.minimum(nearest, np.min(distances, axis=0), out=nearest)
  return Neighbours(
    precision=float(np.mean(precise)),
    recall=float(np.mean(recalled)),
    density=pairs / (NUM_NEIGHBOURS[1] * len(generated)),
    coverage=float(np.mean(covered)),
    nearest=nearest,
  )


def knn_radii(features):
  """Returns squared distances to the neighbours `NUM_NEIGHBOURS`, (2, N).

  Args:
    features: (N, D).

  Raises:
    ValueError: there are no more than 5 features.
  """
  if len(features) <= max(NUM_NEIGHBOURS):
    raise ValueError(
      f'nearest neighbours need more than {max(NUM_NEIGHBOURS)} images in each '
      f'set, got {len(features)}'
    )
  features = features.astype(np.float64)
  squares = np.sum(features**2, axis=1)
  radii = np.empty((len(NUM_NEIGHBOURS), len(features)))
  for rows in _blocks(len(features)):
    distances = _square_distances(features[rows], features, squares)
    # The nearest of all, number 0, is the feature itself.
    distances.partition(NUM_NEIGHBOURS, axis=1)
    radii[:, rows] = distances[:, NUM_NEIGHBOURS].T
  return radii


def nearest(real, features):
  """Returns squared distances of features to the nearest real one, (M,).

  Args:
    real: (N, D) features.
    features: (M, D).
  """
  real, features = (x.astype(np.float64) for x in (real, features))
  squares = np.sum(real**2, axis=1)
  return np.concatenate(
    [
      np.min(_square_distances(features[rows], real, squares), axis=1)
      for rows in _blocks(len(features))
    ]
  )


def rms_difference(batches, others):
  """Returns the root mean square difference of images in [-1, 1].

  Args:
    batches: iterable of uint8 images (B, H, W, C), which stand for [-1, 1].
    others: the same number of images in batches of the same sizes.
  """
  total, count = 0.0, 0
  for images, theirs in zip(batches, others, strict=True):
    total += np.sum((images.astype(np.float64) - theirs) ** 2)
    count += images.size
  return float(np.sqrt(total / count) / 127.5)


def _square_distances(x, y, y_squares):
  """Returns |x_i - y_j|^2, (N, M).

  A matrix product makes it 10 times as fast as SciPy's cdist.

  Args:
    x: (N, D).
    y: (M, D).
    y_squares: |y_j|^2, (M,), computed once for all blocks of x.
  """
  distances = x @ y.T
  distances *= -2
  distances += np.sum(x**2, axis=1)[:, None]
  distances += y_squares
  return np.maximum(distances, 0, out=distances)


def _blocks(length, size=500):
  return [slice(i, min(i + size, length)) for i in range(0, length, size)]
