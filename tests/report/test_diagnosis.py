"""Whether a round is done."""

import pytest

from diffusion_distillation.report.diagnosis import diagnosis, warnings


def log(losses, **more):
  """A round's log, a line every 10 updates."""
  return [
    {'stage': 'student_00001', 'step': 10 * i, 'loss': loss, **more}
    for i, loss in enumerate(losses, 1)
  ]


def test_the_end_of_a_round_is_compared_with_two_thirds_of_it():
  lines = log([9, 8, 7, 6, 5, 4, 4, 3, 2, 1], teacher_loss=2.0, step_error=0.5)
  lines.insert(3, {'stage': 'student_00001', 'step': 30, 'kid': 0.1})
  assert diagnosis(lines) == {
    'step_error': 0.5,
    'relative_loss': 0.5,
    'late_change': 0.25,
  }


def test_a_short_round_has_few_lines():
  # Two lines, at a half and at the end; and one alone.
  assert diagnosis(log([4.0, 1.0]))['late_change'] == 0.25
  assert 'late_change' not in diagnosis(log([4.0]))


def test_losses_at_other_levels_are_not_compared():
  lines = log([5.0, 4.0, 3.0, 2.0, 1.0], levels=64)
  assert diagnosis(lines)['late_change'] == pytest.approx(1 / 3)
  lines[2]['levels'] = 32
  assert 'late_change' not in diagnosis(lines)


@pytest.mark.parametrize('lines', [[], log([3.0]), log([0.0, 0.0, 0.0])])
def test_what_is_not_known_is_left_out(lines):
  assert 'late_change' not in diagnosis(lines)
  assert 'step_error' not in diagnosis(lines)


def test_a_round_that_ended_early_gives_a_warning():
  rounds = [
    {'name': 'teacher', 'late_change': 0.1},
    {'name': 'student_00002', 'late_change': 0.8},
    {'name': 'student_00001', 'late_change': 0.3},
  ]
  (warning,) = warnings(rounds)
  assert warning.startswith(
    'student_00001 had not converged: its loss still fell by 70%'
  )
