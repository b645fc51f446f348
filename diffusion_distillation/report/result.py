"""The result of a run in a sentence, which takes the errors into account."""

import fractions
import math

from scipy import stats

from diffusion_distillation.report import labels

_UNMEASURED = (
  'Nothing is measured yet. The same command with --mode=evaluate measures a '
  'finished run, with the weights of Inception, --config.eval.inception_path='
  'PATH, or, if the data have labels, --config.eval.features=classifier.'
)


def differ(row, other):
  """Returns whether the distances of two rows differ by more than chance.

  The threshold is two standard errors of their difference. None means that an
  error is not known.

  Args:
    row: a measured row of a report.
    other: another measured row.
  """
  errors = [each.get('frechet_distance_error') for each in (row, other)]
  if None in errors or not all(map(math.isfinite, errors)):
    return None
  difference = row['frechet_distance'] - other['frechet_distance']
  count, limit = row.get('num_runs', 1), 2
  if count > 1:  # the errors are standard deviations between runs
    limit = stats.t.ppf(0.975, 2 * count - 2) / math.sqrt(count)
  return abs(difference) > limit * math.hypot(*errors)


def cost(row, kind):
  """Returns what an image of a row costs; None if that is not known.

  Args:
    row: a row of a report.
    kind: 'num_steps', 'nfe', 'seconds' or 'training', the FLOPs of training.
  """
  if kind == 'training':
    return row.get('training_flops') or None
  if kind != 'seconds':
    return row[kind]
  speed = row.get('images_per_second')
  return 1 / speed if speed else None


def pareto_front(rows, kind):
  """Returns the rows that no other beats in both cost and distance.

  They come by rising cost and falling distance.

  Args:
    rows: rows of a report.
    kind: as in `cost`.
  """
  known = [
    (cost(row, kind), row['frechet_distance'], i)
    for i, row in enumerate(rows)
    if row.get('frechet_distance') is not None and cost(row, kind) is not None
  ]
  front, best = [], math.inf
  for _, distance, i in sorted(known):
    if distance < best:
      front.append(rows[i])
      best = distance
  return front


def sentences(report):
  """Returns the result of a report as a list of one to three sentences.

  The first is about the student with the fewest network evaluations or, without
  students, about the teacher. The second names the cheapest student that is as
  good as the teacher, and the third says how many rows are measured so far.

  Args:
    report: result of `report.make_report`.
  """
  rows = report['rows']
  texts = labels.column(rows, 'frechet_distance')
  measured = [
    row | {'text': text}
    for row, text in zip(rows, texts, strict=True)
    if text and math.isfinite(row['frechet_distance'])
  ]
  if not measured:
    if report['failure'] is None:
      return [_UNMEASURED]
    return ['Nothing was measured before the run failed.']
  found = [_first_sentence(measured, report['metric']['label'])]
  found += _second_sentence(measured)
  if len(measured) < len(rows) and report['failure'] is None:
    found.append(
      f'{len(measured)} of {len(rows)} rows are measured so far; the same '
      'command with --mode=evaluate measures the others.'
    )
  return found


def _first_sentence(measured, label):
  reference = _reference(measured)
  students = _students(measured)
  row = students[0] if students else reference or measured[0]
  way = ''
  if row['network'] not in ('student', 'teacher'):  # there are several ways
    way = f' ({row["network"].replace("_", " ")})'
  begin = f'{labels.steps(row["num_steps"])}{way}: {label} {row["text"]}'
  if not students:
    return f'The teacher at {begin}; no student is measured.'
  if reference is None:
    return f'{begin}; the teacher at its own number of steps is not measured.'
  different = differ(row, reference)
  comparison = 'not distinguishable from'
  if different is not False:
    comparison = f'{labels.factor(row["ratio"])} times'
  unknown = '; the uncertainty is not known' if different is None else ''
  return (
    f"{begin}, {comparison} the teacher's at "
    f'{labels.steps(reference["num_steps"])} ({reference["text"]}), '
    f'for {_cost(row, reference)}{unknown}.'
  )


def _second_sentence(measured):
  """Returns which student is as good as the teacher, as a list of sentences."""
  reference, students = _reference(measured), _students(measured)
  if reference is None or not students:
    return []
  if any(differ(row, reference) is None for row in students):
    return []
  good = [
    row
    for row in students
    if not differ(row, reference)
    or row['frechet_distance'] < reference['frechet_distance']
  ]
  if not good:
    return ['Every student is distinguishably worse than the teacher.']
  if good[0] is students[0]:
    return []
  best = good[0]
  return [
    "Fewest steps not distinguishably worse than the teacher's: "
    f'{best["num_steps"]:,} ({best["network"].replace("_", " ")}, '
    f'{labels.sampler_label(best["sampler"])}: {best["text"]}).'
  ]


def _students(measured):
  """Returns the rows of students, cheapest first, and best first."""
  return sorted(
    (row for row in measured if row['network'] != 'teacher'),
    key=lambda row: (row['nfe'], row['frechet_distance']),
  )


def _reference(measured):
  """Returns the row of the teacher as it is distilled, or None."""
  found = (row for row in measured if row['is_reference'] and 'ratio' in row)
  return next(found, None)


def _cost(row, reference):
  share = fractions.Fraction(row['nfe'], reference['nfe'])
  if share == 1:
    return 'as many network evaluations'
  if share > 1:
    return f'{labels.factor(float(share))} times the network evaluations'
  return f'{share} of the network evaluations'
