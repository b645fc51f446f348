import pytest

from diffusion_distillation.report import result, seeds


def report(distances, metric='digits'):
  rows = [
    {
      'network': 'student',
      'round': 'student_00004',
      'sampler': 'ddim',
      'num_steps': num_steps,
      'nfe': num_steps,
      'is_reference': False,
      'frechet_distance': distance,
      'frechet_distance_error': 0.1,
      'images_per_second': 100 * distance,
      'kid': None,
    }
    for num_steps, distance in distances.items()
  ]
  return {'rows': rows, 'metric': {'dataset': metric}, 'title': 'digits'}


def test_figures_are_means_and_their_errors_deviations_over_the_runs():
  merged = seeds.merge(
    [report({4: 1.0, 8: 7.0}), report({4: 2.0, 8: 7.0}), report({4: 6.0})]
  )
  assert merged['rows'][0]['images_per_second'] == 100
  (row,) = merged['rows']  # the others are not in all runs
  assert row['num_steps'] == 4 and row['round'] == 'student_00004'
  assert row['frechet_distance'] == pytest.approx(3)
  assert row['frechet_distance_error'] == pytest.approx(7**0.5)
  assert merged['num_runs'] == 3 and merged['title'] == 'digits'


def test_the_deviation_takes_the_place_of_every_error():
  runs = [report({4: 1.0}) for _ in range(2)]
  for run, score in zip(runs, (5.0, 6.0), strict=True):
    run['rows'][0] |= {'inception_score': score, 'inception_score_std': 0.01}
  (row,) = seeds.merge(runs)['rows']
  assert row['inception_score_std'] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(('count', 'limit'), [(2, 4.303), (3, 2.776)])
def test_runs_differ_by_student_s_t_test(count, limit):
  # Quantiles of Student's t, 97.5 %, for 2 and 4 degrees of freedom.
  def row(distance):
    spread = {'frechet_distance_error': 1.0, 'num_runs': count}
    return {'frechet_distance': distance} | spread

  least = limit * (2 / count) ** 0.5
  assert result.differ(row(5.0), row(5.0 + 1.001 * least))
  assert not result.differ(row(5.0), row(5.0 + 0.999 * least))


def test_one_run_is_left_as_it_is():
  one = report({4: 1.0})
  assert seeds.merge([one]) is one


def test_every_run_has_a_solution_of_its_own():
  runs = [report({4: distance}) for distance in (1.0, 3.0)]
  for run, checksum in zip(runs, 'ab', strict=True):
    run['metric']['solution_checksum'] = checksum
  assert seeds.merge(runs)['rows'][0]['frechet_distance'] == pytest.approx(2)


def test_runs_that_were_measured_otherwise_are_refused():
  with pytest.raises(ValueError, match='not measured in the same way'):
    seeds.merge([report({4: 1.0}), report({4: 1.0}, 'mnist')])
