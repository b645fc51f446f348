"""Metrics of updates, on their way from the devices to the log."""

import jax
import numpy as np


def fetch(calls):
  """Returns the metrics of some calls as host arrays, name -> (updates,).

  Args:
    calls: list of what a compiled step gave, name -> (devices, updates).
  """
  host = [jax.tree.map(lambda m: np.asarray(m)[0], call) for call in calls]
  names = host[0] if host else ()
  return {k: np.concatenate([call[k] for call in host]) for k in names}


def to_json(metrics):
  """Returns host arrays of metrics as JSON values, to the last bit."""
  return {name: values.tolist() for name, values in metrics.items()}


def from_json(values):
  """Returns the list of calls that `fetch` makes the same metrics of."""
  arrays = {k: np.array([v], np.float32) for k, v in (values or {}).items()}
  return [arrays] if arrays else []


def not_finite(metrics, step):
  """Returns what is wrong with the first update that is, or None.

  Args:
    metrics: host arrays, of the updates up to number `step`.
    step: updates made.
  """
  if not metrics:
    return None
  loss, norm = metrics['loss'], metrics['grad_norm']
  finite = np.isfinite(loss) & np.isfinite(norm)
  if finite.all():
    return None
  first = int(np.argmin(finite))
  update = step - len(finite) + first + 1
  return (
    f'loss {loss[first]} and gradient norm {norm[first]} at update {update}'
  )
