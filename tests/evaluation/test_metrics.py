import numpy as np
import pytest
from scipy import linalg

from diffusion_distillation.evaluation import metrics


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
  a = metrics.statistics(rng.standard_normal((50, 6)))
  b = metrics.statistics(rng.standard_normal((50, 6)) + 1)
  assert abs(metrics.frechet_distance(*a, *a)) < 1e-10
  np.testing.assert_allclose(
    metrics.frechet_distance(*a, *b), metrics.frechet_distance(*b, *a)
  )


@pytest.mark.parametrize('samples', [8, 200])  # 8: singular covariances
def test_frechet_distance_agrees_with_scipy_s_matrix_root(samples):
  rng = np.random.RandomState(1)
  mix = rng.standard_normal((12, 12))
  mean_1, cov_1 = metrics.statistics(rng.standard_normal((samples, 12)) @ mix)
  mean_2, cov_2 = metrics.statistics(rng.standard_normal((samples, 12)) + 0.3)
  root = linalg.sqrtm(cov_1 @ cov_2).real
  want = np.sum((mean_1 - mean_2) ** 2) + np.trace(cov_1 + cov_2 - 2 * root)
  got = metrics.frechet_distance(mean_1, cov_1, mean_2, cov_2)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_statistics_are_mean_and_unbiased_covariance():
  mean, cov = metrics.statistics(np.array([[0.0, 1.0], [2.0, 1.0]]))
  np.testing.assert_allclose(mean, [1, 1])
  np.testing.assert_allclose(cov, [[2, 0], [0, 0]])
  with pytest.raises(ValueError, match='2 images or more'):
    metrics.statistics(np.zeros((1, 2)))


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
  assert metrics.precision_recall(real, real) == (1, 1)
  assert metrics.precision_recall(real, real + 100) == (0, 0)
  # Half of the samples are real, the other half nowhere.
  half = np.concatenate([real[:100], real[:100] + 100])
  precision, _ = metrics.precision_recall(real, half)
  assert precision == 0.5
  # All samples are real, but from one of two clusters only.
  clusters = np.concatenate([real[:100], real[100:] + 100])
  precision, recall = metrics.precision_recall(clusters, real[:100])
  assert precision == 1 and recall == 0.5


def test_too_few_images_for_neighbours_are_refused():
  with pytest.raises(ValueError, match='more than 3'):
    metrics.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
