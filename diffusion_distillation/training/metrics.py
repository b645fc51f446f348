"""Metrics of updates: fetched from the devices, checked and stored."""

import jax
import numpy as np


def fetch(calls):
  """Returns the metrics of some calls as host arrays, name -> (updates,).

  Args:
    calls: list of the metrics of compiled calls, name -> (devices, updates).
  """
  host = [jax.tree.map(lambda m: np.asarray(m)[0], call) for call in calls]
  names = host[0] if host else ()
  return {k: np.concatenate([call[k] for call in host]) for k in names}


def to_json(metrics):
  """Returns host arrays of metrics as JSON values, without rounding."""
  return {name: values.tolist() for name, values in metrics.items()}


def from_json(values):
  """Returns a list of calls from which `fetch` makes the same metrics."""
  arrays = {k: np.array([v], np.float32) for k, v in (values or {}).items()}
  return [arrays] if arrays else []


def not_finite(metrics, step):
  """Returns a text about the first update that is not finite, or None.

  Args:
    metrics: host arrays for the updates up to number `step`.
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
