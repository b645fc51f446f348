"""Selects reference likelihoods: python select_likelihood.py REFERENCE.

REFERENCE is as in select_solvers.py. The cases are variance preserving; their
noise level at the two ends is stored in place of their time.
"""

import json
import pathlib
import sys

import numpy as np
from select_solvers import linear

HERE = pathlib.Path(__file__).parent
CASES = (
  'bpd_vp_mixture_Rademacher_centered_rtol1e-08',
  'bpd_vp_mixture_Gaussian_centered_rtol1e-05',
  'bpd_vp_gaussian_Rademacher_centered_rtol1e-05',
)


def main(reference):
  """Writes likelihood.json and likelihood.npz."""
  described = json.loads((reference / 'sde_flow.json').read_text())
  stored = np.load(reference / 'sde_flow.npz')
  cases, selected = [], {}
  for case in described['cases']:
    if case['name'] not in CASES:
      continue
    about = {key: case[key] for key in ('name', 'data', 'rtol', 'offset_bits')}
    about['levels'] = [linear(case['t_from']), linear(case['t_to'])]
    cases.append({**about, 'original': described['original']})
    arrays = {
      'x': 'x',
      'probe': 'hutchinson_eps',
      'bits': 'bits_per_dim',
      'exact': 'exact_bits_per_dim_same_convention',
    }
    for name, theirs in arrays.items():
      if theirs in case['arrays']:
        selected[f'{case["name"]}/{name}'] = stored[case['arrays'][theirs]]
  (HERE / 'likelihood.json').write_text(json.dumps({'cases': cases}, indent=1))
  np.savez_compressed(HERE / 'likelihood.npz', **selected)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
