"""Finds rounds that ended before they had converged, from their log."""

import statistics

# A round had too few updates if its loss at the end is below this share of its
# loss at two thirds of the updates. On digits, rounds of 800 updates end at 0.6
# to 0.8, and of 200 at 0.2 to 0.6.
NOT_DONE = 0.5
_BEFORE, _END = (0.6, 0.7), (0.9, 1.0)  # parts of a round
_NEAR = 0.16  # largest distance of a line that stands for a part without lines


def diagnosis(entries):
  """Returns figures of a round's end, as far as the log has them.

  Args:
    entries: the lines of metrics.jsonl of one round.

  Returns:
    A dict with `step_error`, how far the student's step lands from its target,
    relative to the length of the step; `relative_loss`, the loss relative to
    that of the teacher against the clean images; and `late_change`, the loss at
    the end relative to that at two thirds of the round. A figure that the log
    does not allow is left out, and so is `late_change` where the number of
    levels changes, and with it the meaning of the loss.
  """
  lines = [entry for entry in entries if 'loss' in entry]
  end = _mean(lines, _END)
  found = {}
  if 'step_error' in end:
    found['step_error'] = end['step_error']
  if end.get('teacher_loss'):
    found['relative_loss'] = end['loss'] / end['teacher_loss']
  before = _mean(lines, _BEFORE)
  same = before.get('levels') == end.get('levels')
  if before and same and end['loss'] > 0 and before['loss'] > 0:
    found['late_change'] = end['loss'] / before['loss']
  return found


def warnings(rounds):
  """Returns a sentence for each round that ended before it had converged.

  Args:
    rounds: those of a report.
  """
  return [
    f'{each["name"]} had not converged: its loss still fell by '
    f'{1 - each["late_change"]:.0%} in the last third of its updates. Give it '
    'more updates.'
    for each in rounds
    if each['name'] != 'teacher' and each.get('late_change', 1) < NOT_DONE
  ]


def _mean(lines, part):
  """Returns the means of the metrics in a part of a round, {} if unknown."""
  if not lines:
    return {}
  low, high = part
  at = [line['step'] / lines[-1]['step'] for line in lines]
  chosen = [line for line, t in zip(lines, at, strict=True) if low < t <= high]
  if not chosen:  # a short round has few lines
    distance = [abs(t - (low + high) / 2) for t in at]
    if min(distance) > _NEAR:
      return {}
    chosen = [lines[distance.index(min(distance))]]
  keys = ('loss', 'teacher_loss', 'step_error', 'levels')
  return {
    k: statistics.fmean(line[k] for line in chosen)
    for k in keys
    if k in lines[-1]
  }
