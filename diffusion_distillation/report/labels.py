"""Names of samplers and figures in a report, and how numbers are formatted."""

import dataclasses
import math
import re

from diffusion_distillation.samplers.table import split

_SAMPLERS = {
  'ddim': 'DDIM',
  'euler': 'Euler in log-SNR',
  'euler_t': 'Euler in t',
  'heun': 'Heun',
  'rk4': 'Runge-Kutta 4',
  'unipc': 'UniPC',
  'euler_maruyama': 'Euler-Maruyama',
  'gamma_ddim': 'Gamma-DDIM',
}
_DECIMALS_AT_MOST = 6


@dataclasses.dataclass(frozen=True)
class Column:
  """The format of one figure in a column of a table.

  Attributes:
    heading: name of the figure; `{label}` stands for that of the Frechet
      distance.
    decimals: digits after the point; small figures get more.
    better: 1 if larger figures are better, -1 if smaller ones are, else 0.
    error: key of its uncertainty, in the same unit.
  """

  heading: str
  decimals: int = 2
  better: int = 0
  error: str | None = None


# Keys of a row that are shown, in the order of the table's columns.
COLUMNS = {
  'num_steps': Column('steps', 0),
  'nfe': Column('NFE', 0),
  'frechet_distance': Column(
    '{label}', better=-1, error='frechet_distance_error'
  ),
  'ratio': Column('ratio to reference', error='ratio_error'),
  'paper': Column("paper's FID"),
  'images_per_second': Column('images per second', 0),
  'frechet_distance_heldout': Column('{label}, held-out', better=-1),
  'sfid': Column('sFID', better=-1),
  'inception_score': Column(
    'Inception Score', better=1, error='inception_score_std'
  ),
  'classifier_score': Column('classifier score', better=1),
  'precision': Column('precision', 3, better=1),
  'recall': Column('recall', 3, better=1),
  'density': Column('density', 3, better=1),
  'coverage': Column('coverage', 3, better=1),
  'memorization': Column('memorization', 3),
  'teacher_rmse': Column("RMSE to the teacher's solution", 3, better=-1),
  'kid': Column('KID', 4, better=-1),
}


def sampler_label(sampler):
  """Returns a sampler's name for a reader.

  Args:
    sampler: spelling in configs, such as 'unipc:order=3@karras:rho=5', which
      becomes 'UniPC, order 3, Karras levels, rho 5'.
  """
  ranges = re.sub(r'(\w+)_min=([^,]*),\1_max=', r'\1=\2 to ', sampler)
  spelling, grid = split(ranges)
  name, *options = re.split('[:,]', spelling)
  if found := re.fullmatch(r'dpm(pp)?_(\d)([sm])', name):
    plus = '++' if found[1] else ''
    label = f'DPM-Solver{plus}({found[2]}{found[3].upper()})'
  else:
    label = _SAMPLERS.get(name, name.replace('_', ' '))
  parts = [label, *options]
  if '@' in sampler:
    name, *options = re.split('[:,]', grid)
    label = 'Karras levels' if name == 'karras' else f'{name} grid'
    parts += [label, *options]
  return ', '.join(
    part.removesuffix('=True').replace('_', ' ').replace('=', ' ')
    for part in parts
  )


def group(rows):
  """Returns the rows by network and sampler, label -> rows by rising steps.

  Students come before the teacher. One of several ways to distill that has a
  single sampler is named without it. Rows that differ only in their round, such
  as several students that are sampled in the same number of steps, are grouped
  by round.

  Args:
    rows: rows of a report.
  """

  def curve(row):
    return row['network'], row['sampler']

  points = [(*curve(row), row['num_steps']) for row in rows]
  ambiguous = {point[:2] for point in points if points.count(point) > 1}
  samplers = {}
  for row in rows:
    samplers.setdefault(row['network'], set()).add(row['sampler'])
  groups = {}
  for row in sorted(rows, key=lambda row: row['network'] == 'teacher'):
    by_round = curve(row) in ambiguous
    network = row['round'] if by_round else row['network']
    label = f'{network}, {sampler_label(row["sampler"])}'
    is_method = network not in ('teacher', 'student') and not by_round
    if is_method and len(samplers[network]) == 1:
      label = network.replace('_', ' ')
    groups.setdefault(label, []).append(row)
  return {
    label: sorted(members, key=lambda row: row['num_steps'])
    for label, members in groups.items()
  }


def heading(key, metric):
  """Returns the heading of a column.

  Args:
    key: a key of `COLUMNS`.
    metric: the protocol of the figures, or None.
  """
  label = metric['label'] if metric else 'Frechet distance'
  return COLUMNS[key].heading.replace('{label}', label)


def steps(num_steps):
  """Returns a number of sampling steps in words, '1 step' or '2 steps'."""
  return f'{num_steps:,} step{"" if num_steps == 1 else "s"}'


def column(rows, key):
  """Returns one figure of all rows as text, with the same decimals.

  Args:
    rows: rows of a report; the text of a row without the figure is ''.
    key: a key of `COLUMNS`.
  """
  column = COLUMNS[key]
  errors = [row.get(column.error) for row in rows]
  return numbers([row.get(key) for row in rows], column.decimals, errors)


def numbers(values, places=2, errors=()):
  """Returns numbers as text, with the same decimals.

  They show two significant digits of the smallest number and one of the
  smallest error, but at most six decimals.

  Args:
    values: numbers; the text of None is ''.
    places: smallest number of decimals.
    errors: the numbers' standard errors, None if one is not known.
  """
  errors = errors or [None] * len(values)
  places = max(places, _decimals(values, 2), _decimals(errors, 1))
  return [
    '' if value is None else number(value, places, error)
    for value, error in zip(values, errors, strict=True)
  ]


def _decimals(values, digits):
  """Returns the decimals that show `digits` digits of the smallest value."""
  sizes = [abs(value) for value in values if value and math.isfinite(value)]
  if not sizes or all(isinstance(size, int) for size in sizes):
    return 0
  smallest = math.floor(math.log10(min(sizes)))
  return min(max(0, digits - 1 - smallest), _DECIMALS_AT_MOST)


def number(value, places=2, error=None):
  """Returns a number as text, with its uncertainty if that is known.

  Args:
    value: the number.
    places: decimals.
    error: its standard error, or None.
  """
  text = f'{value:,.{places}f}'.replace('-', '\N{MINUS SIGN}')
  return text if error is None else f'{text} ± {error:.{places}f}'


def factor(ratio):
  """Returns a ratio to two digits, or three close to one: 0.81, 1.04, 1.2."""
  places = 0 if ratio >= 10 else 2 if ratio < 1.1 else 1
  return f'{ratio:,.{places}f}'
