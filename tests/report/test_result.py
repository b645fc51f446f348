import numpy as np
import pytest

from diffusion_distillation.report import report as reports
from diffusion_distillation.report import result
from tests.report import examples


def row(network, num_steps, distance=None, error=None, **options):
  figures = {'frechet_distance': distance, 'frechet_distance_error': error}
  return {
    'network': network,
    'round': 'teacher' if network == 'teacher' else f'student_{num_steps:05}',
    'sampler': 'ddim',
    'num_steps': num_steps,
    'nfe': num_steps,
    'is_reference': network == 'teacher',
    **{name: value for name, value in figures.items() if value is not None},
    **options,
  }


def sentences(*rows, failure=None):
  metric = examples.digits()['metric']
  rows = reports.compare(rows, metric)
  return result.sentences({'rows': rows, 'metric': metric, 'failure': failure})


def test_the_pareto_front_is_what_no_other_row_beats_in_cost_and_distance():
  cheap, good = row('student', 1, 3.0), row('student', 4, 1.0)
  slow = row('teacher', 2, 2.0, nfe=8, images_per_second=50)
  fast = row('teacher', 3, 2.0, nfe=3, images_per_second=100)
  every = [slow, fast, good, row('teacher', 4, 1.5), cheap, row('teacher', 16)]
  assert result.pareto_front(every, 'nfe') == [cheap, fast, good]
  assert result.pareto_front(every, 'num_steps') == [cheap, slow, good]
  # Where the speed of only two rows is known.
  assert result.pareto_front(every, 'seconds') == [fast]
  assert result.pareto_front([], 'nfe') == []


TEACHER = row('teacher', 64, 1.19, 0.04)


def test_a_worse_student_is_described():
  assert sentences(row('student', 1, 1.46, 0.05), TEACHER) == [
    "1 step: Frechet distance 1.46 ± 0.05, 1.2 times the teacher's at 64 steps "
    '(1.19 ± 0.04), for 1/64 of the network evaluations.',
    'Every student is distinguishably worse than the teacher.',
  ]


def test_a_difference_within_the_error_is_not_distinguishable():
  # Two standard errors of the difference are 0.128.
  close, far = row('student', 1, 1.31, 0.05), row('student', 1, 1.33, 0.05)
  assert 'not distinguishable' in sentences(close, TEACHER)[0]
  assert '1.1 times' in sentences(far, TEACHER)[0]
  better = row('student', 1, 1.1, 0.2)
  (only,) = sentences(better, TEACHER)
  assert 'not distinguishable' in only and 'times' not in only


def test_without_errors_no_rows_are_called_indistinguishable():
  found = sentences(row('student', 1, 1.2), TEACHER)
  assert len(found) == 1 and found[0].endswith('not known.')
  assert '1.01 times' in found[0]

  nan = row('student', 1, 1.2, np.nan)
  assert 'not distinguishable' not in sentences(nan, TEACHER)[0]


def test_a_surely_better_student_is_described():
  (found,) = sentences(row('student', 1, 0.6, 0.01), TEACHER)
  assert '0.50 times the teacher' in found


def test_the_cheapest_student_that_is_as_good_is_named():
  students = [
    row('student', 1, 1.46, 0.05),
    row('student', 4, 1.25, 0.05),
    row('student', 8, 1.2, 0.05),
  ]
  assert sentences(*students, TEACHER)[1] == (
    "Fewest steps not distinguishably worse than the teacher's: 4 (student, "
    'DDIM: 1.25 ± 0.05).'
  )


def test_cost_is_counted_in_network_evaluations():
  for nfe, cost in (
    (3, '3/64 of the network evaluations'),
    (64, 'as many network evaluations'),
    (128, '2.0 times the network evaluations'),
  ):
    student = row('student', 2, 1.5, 0.05, nfe=nfe)
    assert sentences(student, TEACHER)[0].endswith(f', for {cost}.')


def test_runs_without_students_or_the_teacher_s_row_are_described():
  assert sentences(TEACHER) == [
    'The teacher at 64 steps: Frechet distance 1.19 ± 0.04; no student is '
    'measured.'
  ]
  found, missing = sentences(row('student', 1, 2.0, 0.1), row('teacher', 64))
  assert found.endswith('its own number of steps is not measured.')
  assert missing.startswith('1 of 2 rows are measured so far')


def test_unmeasured_and_failed_runs_are_described():
  assert '--mode=evaluate' in sentences(row('student', 1))[0]
  assert sentences(row('student', 1), failure='loss nan') == [
    'Nothing was measured before the run failed.'
  ]


@pytest.mark.parametrize('distance', [np.nan, np.inf])
def test_figures_that_are_not_finite_count_as_not_measured(distance):
  assert '--mode=evaluate' in sentences(row('student', 1, distance, 0.1))[0]
