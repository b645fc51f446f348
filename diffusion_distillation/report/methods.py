"""Few-step methods side by side: what each reaches, and what it costs."""

import dataclasses

from diffusion_distillation.report import labels

# Network evaluations that are compared.
NFE = (1, 2, 4, 8)
HEADINGS = (
  'method',
  'updates',
  'images',
  'FLOP',
  'time',
  *(f'{n} NFE' for n in NFE),
)
# Figures of a row in a cell, and the keys of their errors.
_FIGURES = {
  'frechet_distance': 'frechet_distance_error',
  'precision': None,
  'teacher_rmse': None,
}


@dataclasses.dataclass(frozen=True)
class Method:
  """A few-step method, and what training its students cost.

  Attributes:
    label: name of the method and of its sampler.
    updates: number of updates.
    images: number of training images, with repetition.
    flops: FLOPs, by count.
    seconds: measured time.
    rows: network evaluations -> row of the report.
  """

  label: str
  updates: int
  images: int
  flops: float
  seconds: float
  rows: dict[int, dict]


def names(report):
  """Returns the names of the methods, or 'student' where there is one."""
  rows = report['rows']
  return [
    n for n in dict.fromkeys(r['network'] for r in rows) if n != 'teacher'
  ]


def compare(report):
  """Returns the Methods of a report: distillations, then samplers.

  Args:
    report: result of `report.make_report`.
  """
  found = []
  for label, rows in labels.group(report['rows']).items():
    by_nfe = {row['nfe']: row for row in rows if row['nfe'] in NFE}
    if not by_nfe:
      continue
    wanted = {
      name
      for row in by_nfe.values()
      for name in _ancestors(report['rounds'], row['round'])
    }
    used = [each for each in report['rounds'] if each['name'] in wanted]
    found.append(
      Method(
        label,
        *(
          sum(each[key] for each in used)
          for key in ('updates', 'images', 'flops', 'seconds')
        ),
        by_nfe,
      )
    )
  return found


def training_flops(rounds, name):
  """Returns the FLOPs of a round and those before it, without the teacher's.

  Args:
    rounds: those of a report.
    name: name of the round.
  """
  wanted = _ancestors(rounds, name)
  return sum(each['flops'] for each in rounds if each['name'] in wanted)


def _ancestors(rounds, name):
  """Returns the names of a round and of its parents, without the teacher."""
  parents = {each['name']: each['parent'] for each in rounds}
  found = set()
  while parents.get(name) is not None:  # the teacher has no parent
    found.add(name)
    name = parents[name]
  return found


def cells(method):
  """Returns the texts of a Method: its label, its cost and its figures.

  The figures are the distance, the precision and the RMSE to the teacher's
  solution.
  """
  cost = ['', '', '', '']
  if method.updates:
    cost = [
      f'{method.updates:,}',
      f'{method.images:,}',
      f'{method.flops:.1e}'.replace('e+', 'e'),
      f'{method.seconds / 60:.1f} min',
    ]
  return [method.label, *cost, *(_cell(method.rows.get(n, {})) for n in NFE)]


def _cell(row):
  if row.get('frechet_distance') is None:
    return ''
  texts = [
    labels.numbers([row.get(key)], 2, [row.get(error)])[0]
    for key, error in _FIGURES.items()
  ]
  return ' / '.join(text or '\N{EN DASH}' for text in texts)
