"""Reads and writes numbers of original programs, for the scripts beside it."""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent


def chosen(reference, names):
  """Yields the family, the description and the arrays of chosen cases.

  Args:
    reference: folder with FAMILY.json and FAMILY.npz.
    names: mapping from a family to names of its cases.
  """
  for family, of_family in names.items():
    described = json.loads((reference / f'{family}.json').read_text())
    stored = np.load(reference / f'{family}.npz')
    cases = {case['name']: case for case in described['cases']}
    for name in of_family:
      case = {**cases[name], 'original': described['original']}
      arrays = {key: stored[at] for key, at in case['arrays'].items()}
      yield family, case, arrays


def write(name, cases, arrays):
  """Writes NAME.json and NAME.npz beside this file."""
  (HERE / f'{name}.json').write_text(json.dumps({'cases': cases}, indent=1))
  np.savez_compressed(HERE / f'{name}.npz', **arrays)
