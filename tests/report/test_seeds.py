import pytest

from diffusion_distillation.report import seeds


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
