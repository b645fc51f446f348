import itertools

import numpy as np
import pytest
from scipy import linalg

from diffusion_distillation.evaluation import metrics


def statistics(*batches):
  moments = metrics.Moments()
  for batch in batches:
    moments.add(batch)
  return moments.result()


def test_frechet_distance_of_gaussians_in_closed_form():
  # Diagonal covariances: sum (m1 - m2)^2 + (s1 - s2)^2.
  mean_1, mean_2 = np.array([1.0, 2.0, 0.0]), np.array([0.0, 2.0, -3.0])
  std_1, std_2 = np.array([1.0, 0.5, 2.0]), np.array([3.0, 0.5, 0.0])
  got = metrics.frechet_distance(
    mean_1, np.diag(std_1**2), mean_2, np.diag(std_2**2)
  )
  np.testing.assert_allclose(got, 10 + 4 + 4)


def test_frechet_distance_is_0_of_itself_and_symmetric():
  rng = np.random.RandomState(0)
  a = statistics(rng.standard_normal((50, 6)))
  b = statistics(rng.standard_normal((50, 6)) + 1)
  assert abs(metrics.frechet_distance(*a, *a)) < 1e-10
  np.testing.assert_allclose(
    metrics.frechet_distance(*a, *b), metrics.frechet_distance(*b, *a)
  )


@pytest.mark.parametrize('samples', [8, 200])  # 8: singular covariances
def test_frechet_distance_agrees_with_scipy_s_matrix_root(samples):
  rng = np.random.RandomState(1)
  mix = rng.standard_normal((12, 12))
  mean_1, cov_1 = statistics(rng.standard_normal((samples, 12)) @ mix)
  mean_2, cov_2 = statistics(rng.standard_normal((samples, 12)) + 0.3)
  root = linalg.sqrtm(cov_1 @ cov_2).real
  want = np.sum((mean_1 - mean_2) ** 2) + np.trace(cov_1 + cov_2 - 2 * root)
  got = metrics.frechet_distance(mean_1, cov_1, mean_2, cov_2)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_frechet_distance_of_few_images_is_exact():
  # Covariances X^T X and Y^T Y: their root's trace is that of |X Y^T|.
  rng = np.random.RandomState(2)
  x, y = rng.standard_normal((8, 300)), rng.standard_normal((5, 300)) * 2 + 1
  (mean_1, cov_1), (mean_2, cov_2) = statistics(x), statistics(y)
  x, y = (x - mean_1) / np.sqrt(7), (y - mean_2) / np.sqrt(4)
  want = np.sum((mean_1 - mean_2) ** 2) + np.sum(x**2) + np.sum(y**2)
  want -= 2 * np.linalg.norm(x @ y.T, 'nuc')
  got = metrics.frechet_distance(mean_1, cov_1, mean_2, cov_2)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  # All images alike.
  still = metrics.frechet_distance(mean_1, cov_1, mean_2, 0 * cov_2)
  want = np.sum((mean_1 - mean_2) ** 2) + np.sum(x**2)
  np.testing.assert_allclose(still, want, rtol=1e-12)


def test_the_error_of_one_dimension_in_closed_form():
  # The distance is (m1 - m2)^2 + (s1 - s2)^2, its derivatives 2 (m2 - m1) with
  # respect to m2, and 1 - s1 / s2 with respect to s2^2.
  x = np.random.RandomState(0).gamma(2.0, size=(50, 1))
  mean, std = x.mean(), x.std(ddof=1)
  influences = 2 * (mean - 1) * (x - mean) + (1 - 3 / std) * (x - mean) ** 2
  got = metrics.frechet_distance_error(np.ones(1), np.full((1, 1), 9.0), x)
  np.testing.assert_allclose(got, influences.std(ddof=1) / np.sqrt(50))


def repeated(num_samples, dim, shift, scale):
  """Returns Frechet distances, and their estimated errors, of many draws."""
  rng = np.random.RandomState(0)
  mix = rng.standard_normal((dim, dim)) * np.logspace(0, -1.5, dim)
  mean, cov = np.zeros(dim), mix @ mix.T
  distances, errors = [], []
  for _ in range(60):
    noise = rng.standard_normal((num_samples, dim))
    features = noise @ mix.T * scale + shift
    distances.append(metrics.frechet_distance(mean, cov, *statistics(features)))
    errors.append(metrics.frechet_distance_error(mean, cov, features))
  return np.array(distances), np.array(errors)


# (images, features, shift, scale): few images are fewer than the features.
@pytest.mark.parametrize('case', [(400, 6, 0.7, 1.3), (40, 60, 0.7, 1.3)])
def test_the_error_is_the_spread_of_repeated_draws(case):
  distances, errors = repeated(*case)
  # 60 draws determine their spread to a tenth.
  assert 0.8 < np.mean(errors) / np.std(distances) < 1.8
  assert np.std(errors) < 0.3 * np.mean(errors)


def test_the_error_is_not_too_small_where_the_distance_is_bias():
  # The distributions are equal, so the measured distance is only bias.
  distances, errors = repeated(300, 20, 0.0, 1.0)
  assert 1 < np.mean(errors) / np.std(distances) < 1.8


def test_moments_are_mean_and_unbiased_covariance():
  mean, cov = statistics(np.array([[0.0, 1.0], [2.0, 1.0]]))
  np.testing.assert_allclose(mean, [1, 1])
  np.testing.assert_allclose(cov, [[2, 0], [0, 0]])
  with pytest.raises(ValueError, match='2 images or more'):
    statistics(np.zeros((1, 2)))


def test_moments_of_batches_are_those_of_all_even_far_from_0():
  rng = np.random.RandomState(0)
  features = rng.standard_normal((500, 5)) @ rng.standard_normal((5, 5)) + 1e6
  mean, cov = statistics(features[:1], features[1:90], features[90:])
  np.testing.assert_allclose(mean, features.mean(0), rtol=1e-14)
  # A sum of squares, 1e12, would leave no more than 4 digits.
  np.testing.assert_allclose(cov, np.cov(features.T), rtol=1e-8)


def test_moments_of_float32_are_computed_in_float64():
  features = np.full((3000, 1), 0.1, np.float32)
  mean, cov = statistics(features[:1000], features[1000:])
  np.testing.assert_allclose(mean, np.float64(np.float32(0.1)), rtol=1e-15)
  np.testing.assert_allclose(cov, 0, atol=1e-28)


def test_classifier_score_is_1_for_constant_and_k_for_one_hot():
  assert metrics.classifier_score(np.full((30, 5), 0.2)) == pytest.approx(1)
  same = np.tile([[0.7, 0.1, 0.1, 0.1, 0.0]], (30, 1))
  assert metrics.classifier_score(same) == pytest.approx(1)
  assert metrics.classifier_score(np.tile(np.eye(5), (6, 1))) == pytest.approx(
    5
  )


def test_precision_and_recall_of_sets_with_a_known_answer():
  rng = np.random.RandomState(0)
  real = rng.standard_normal((200, 2))
  assert metrics.neighbours(real, real)[:2] == (1, 1)
  assert metrics.neighbours(real, real + 100)[:2] == (0, 0)
  # Half of the samples are real, the other half far from all real ones.
  half = np.concatenate([real[:100], real[:100] + 100])
  assert metrics.neighbours(real, half).precision == 0.5
  # All samples are real, but from one of two clusters only.
  clusters = np.concatenate([real[:100], real[100:] + 100])
  one = metrics.neighbours(clusters, real[:100])
  assert one.precision == 1 and one.recall == 0.5


def test_density_and_coverage_of_sets_with_a_known_answer():
  # The fifth neighbour of each of six equal points is at distance 0, so each
  # ball has the features at the same place: density counts each six times.
  real = np.repeat([[0.0], [10.0]], 6, axis=0)
  same = metrics.neighbours(real, real)
  assert (same.density, same.coverage) == (6 / 5, 1)
  one_mode = metrics.neighbours(real, real[:6])
  assert (one_mode.density, one_mode.coverage) == (6 / 5, 0.5)
  half_bad = np.concatenate([real[:6], real[:6] + 3])
  half = metrics.neighbours(real, half_bad)
  assert (half.density, half.coverage) == (3 / 5, 0.5)
  np.testing.assert_array_equal(half.nearest, [0.0] * 6 + [9.0] * 6)


def test_density_and_coverage_of_two_sets_of_one_distribution():
  # Naeem et al. 2020: the density is then 1 in expectation, and the coverage
  # 1 - (N - 1) ... (N - k) / ((M + N - 1) ... (M + N - k)), here 0.969.
  rng = np.random.RandomState(0)
  got = metrics.neighbours(*rng.standard_normal((2, 2000, 8)))
  expected = 1 - np.prod([(2000 - i) / (4000 - i) for i in range(1, 6)])
  assert got.density == pytest.approx(1, abs=0.05)
  assert got.coverage == pytest.approx(expected, abs=0.012)


def test_one_outlier_does_not_raise_density_and_coverage():
  # Naeem et al. 2020, figure 2: the ball of an outlier makes precision 1 for
  # samples that are near nothing else.
  rng = np.random.RandomState(0)
  real, generated = rng.standard_normal((2, 500, 2))
  real[0] = 50, 0
  got = metrics.neighbours(real, generated + np.array([40, 0]))
  assert got.precision == 1
  assert got.density < 1 and got.coverage == 1 / 500


def test_too_few_images_for_neighbours_are_refused():
  with pytest.raises(ValueError, match='more than 5'):
    metrics.neighbours(np.zeros((5, 2)), np.zeros((9, 2)))


def test_neighbours_follow_their_definitions_in_blocks_of_float32():
  rng = np.random.RandomState(0)
  real, generated = rng.standard_normal((2, 700, 3)).astype(np.float32)
  generated = generated[:610]
  got = metrics.neighbours(real, generated, metrics.knn_radii(real))
  again = metrics.neighbours(real, generated)
  assert got[:4] == again[:4]
  np.testing.assert_array_equal(got.nearest, again.nearest)
  # The expected values follow the definitions, all features at a time.
  to_real = np.linalg.norm(generated[:, None] - real[None], axis=-1)
  among = np.sort(np.linalg.norm(real[:, None] - real[None], axis=-1), axis=1)
  own = np.linalg.norm(generated[:, None] - generated[None], axis=-1)
  own = np.sort(own, axis=1)[:, 3]
  radii = among[:, [3, 5]].T
  np.testing.assert_allclose(metrics.knn_radii(real), radii**2, rtol=1e-4)
  inside = to_real <= radii[1]
  assert got[:4] == (
    np.mean(np.any(to_real <= radii[0], axis=1)),
    np.mean(np.any(to_real <= own[:, None], axis=0)),
    np.sum(inside) / (5 * 610),
    np.mean(np.any(inside, axis=0)),
  )
  nearest = np.min(to_real, axis=1) ** 2
  np.testing.assert_allclose(got.nearest, nearest, rtol=1e-3, atol=1e-6)
  alone = metrics.nearest(real, generated)
  np.testing.assert_allclose(alone, nearest, rtol=1e-3, atol=1e-6)


def test_the_difference_of_images_is_in_the_units_of_x():
  black, white = np.zeros((3, 2, 2, 1), np.uint8), np.full((3, 2, 2, 1), 255)
  white = white.astype(np.uint8)
  assert metrics.rms_difference([black, white], [black, white]) == 0
  # From -1 to 1 everywhere, and in one of two batches.
  assert metrics.rms_difference([black], [white]) == 2
  half = metrics.rms_difference([white, black], [white, white])
  assert half == pytest.approx(2**0.5)
  with pytest.raises(ValueError, match='zip'):
    metrics.rms_difference([black], [black, black])


def test_inception_score_is_the_mean_over_splits_of_any_order():
  rng = np.random.RandomState(0)
  some = rng.dirichlet(np.ones(4), 60)
  assert metrics.inception_score(some, splits=1) == pytest.approx(
    (metrics.classifier_score(some), 0)
  )
  assert metrics.inception_score(np.full((30, 4), 0.25)) == pytest.approx(
    (1, 0)
  )
  by_class = np.eye(5).repeat(1000, axis=0)
  assert metrics.inception_score(by_class, splits=1) == pytest.approx((5, 0))
  # Consecutive splits of what is sorted by class would score 1. The entropy of
  # shares among n draws of K classes is (K - 1) / 2n below log K: 0.4 % here.
  mean, deviation = metrics.inception_score(by_class)
  assert mean == pytest.approx(5 * np.exp(-4 / 1000), rel=2e-3)
  assert 0 < deviation < 0.02
  # With one image per split, all images of a split are the same.
  assert metrics.inception_score(np.eye(3)) == pytest.approx((1, 0))


def kernel(x, y):
  return (np.dot(x, y) / len(x) + 1) ** 3


def test_kid_of_tiny_sets_is_the_sum_over_pairs():
  x, y = np.random.RandomState(0).standard_normal((2, 4, 3))
  pairs = list(itertools.permutations(range(4), 2))
  want = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs])
  want -= 2 * np.mean([kernel(a, b) for a in x for b in y])
  np.testing.assert_allclose(metrics.kid(x, y), want, rtol=1e-12)


def test_kid_of_two_points_in_closed_form():
  # k(0, 0) = k(0, 3) = 1 and k(3, 3) = (9 + 1)^3: 1 + 1000 - 2.
  zeros, threes = np.zeros((5, 1)), np.full((7, 1), 3.0)
  assert metrics.kid(zeros, threes) == pytest.approx(999)


def test_kid_is_0_in_expectation_for_the_same_distribution():
  # These are all outcomes of two pairs of coins, with equal probability.
  coins = [
    np.array(c, float)[:, None] for c in itertools.product([0, 2], repeat=2)
  ]
  values = [metrics.kid(x, y) for x in coins for y in coins]
  assert np.mean(values) == pytest.approx(0, abs=1e-12)
  assert max(values) > 1  # not all values are 0


def test_kid_of_subsets_estimates_that_of_all():
  rng = np.random.RandomState(0)
  x, y = rng.standard_normal((300, 4)), rng.standard_normal((400, 4)) + 0.5

  # The closed form uses the sums over all pairs.
  def total(a, b):
    return np.sum((a @ b.T / 4 + 1) ** 3)

  def own(a):
    diagonal = np.sum((np.sum(a**2, axis=1) / 4 + 1) ** 3)
    return (total(a, a) - diagonal) / (len(a) * (len(a) - 1))

  want = own(x) + own(y) - 2 * total(x, y) / (300 * 400)
  assert metrics.kid(x, y, max_size=100) == pytest.approx(want, rel=0.1)
  assert metrics.kid(x, y, max_size=100) == metrics.kid(x, y, max_size=100)
  with pytest.raises(ValueError, match='2 images or more'):
    metrics.kid(x[:1], y)


def test_kid_s_subsets_are_random():
  # The first 1,000 features of both sets are equal; the others are far away.
  near = np.random.RandomState(0).standard_normal((1000, 3))
  both = np.concatenate([near, near + 9])
  assert metrics.kid(near, both, subsets=2) > 100
