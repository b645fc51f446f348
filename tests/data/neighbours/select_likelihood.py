"""Selects reference likelihoods: python select_likelihood.py REFERENCE.

REFERENCE is as in select_solvers.py. The cases are variance preserving; their
noise level at the two ends is stored in place of their time.
"""

import pathlib
import sys

import originals
from select_solvers import linear

CASES = (
  'bpd_vp_gaussian_Rademacher_centered_rtol1e-05',
  'bpd_vp_mixture_Gaussian_centered_rtol1e-05',
  'bpd_vp_mixture_Rademacher_centered_rtol1e-08',
)
# name -> name of the original's array.
KEPT = {
  'x': 'x',
  'probe': 'hutchinson_eps',
  'bits': 'bits_per_dim',
  'exact': 'exact_bits_per_dim_same_convention',
}


def main(reference):
  """Writes likelihood.json and likelihood.npz."""
  cases, selected = [], {}
  for _, case, arrays in originals.chosen(reference, {'sde_flow': CASES}):
    about = {key: case[key] for key in ('name', 'data', 'rtol', 'offset_bits')}
    about['levels'] = [linear(case['t_from']), linear(case['t_to'])]
    cases.append({**about, 'original': case['original']})
    for name, theirs in KEPT.items():
      if theirs in arrays:
        selected[f'{case["name"]}/{name}'] = arrays[theirs]
  originals.write('likelihood', cases, selected)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
