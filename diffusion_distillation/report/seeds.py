"""Several runs of one config with different seeds, as one report."""

import statistics

from diffusion_distillation.report import labels

# Of the first run: the others may not have had the machine for themselves.
_OF_FIRST = ('images_per_second',)
# What makes rows of different runs the same row.
_IDENTITY = 'network', 'round', 'sampler', 'num_steps', 'nfe', 'is_reference'


def merge(reports):
  """Returns a report of the means over runs that differ in their seed.

  The `..._error` of a figure becomes its standard deviation over the runs. It
  does not contain the choice of samples, which start from the same noise in all
  runs. `ratio` is a mean of ratios. Rows that not all runs have measured are
  left out. All else is that of the first run.

  Args:
    reports: reports of two or more runs, or of one, which is returned as it is.

  Raises:
    ValueError: the runs were not measured in the same way.
  """
  first = reports[0]
  if len(reports) == 1:
    return first
  # The solution is that of each run's own teacher.
  metrics = [
    {**(each['metric'] or {}), 'solution_checksum': None} for each in reports
  ]
  if any(metric != metrics[0] for metric in metrics):
    raise ValueError('these runs were not measured in the same way')
  by_run = [{_identity(row): row for row in r['rows']} for r in reports]
  rows = [
    _merge([run[_identity(row)] for run in by_run])
    for row in first['rows']
    if all(_identity(row) in run for run in by_run)
  ]
  return {**first, 'rows': rows, 'num_runs': len(reports)}


def _identity(row):
  return tuple(row.get(key) for key in _IDENTITY)


def _merge(rows):
  """Returns the same row of several runs as one."""
  merged = {key: rows[0][key] for key in _IDENTITY}
  columns = labels.COLUMNS.items()
  errors = {key: column.error for key, column in columns if column.error}
  for key in rows[0]:
    values = [row.get(key) for row in rows]
    is_error = key.endswith('_error') or key in errors.values()
    if key in _IDENTITY or is_error or None in values:
      continue
    if key in _OF_FIRST:
      merged[key] = values[0]
      continue
    merged[key] = statistics.fmean(values)
    merged[errors.get(key, f'{key}_error')] = statistics.stdev(values)
  return merged | {'num_runs': len(rows)}
