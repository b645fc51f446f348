"""Selects reference numbers of chains: python select_chain.py REFERENCE.

REFERENCE is a folder of numbers that were made with the original programs; see
tests/data/README.md. Times are written as grids of `samplers.sample`.
"""

import pathlib
import sys

import numpy as np
import originals

CASES = {
  'deq': [
    'anderson_uniform_10_m5_lam0.001_beta1_tol0.001',
    'anderson_uniform_20_m3_lam0.001_beta0.9_tol0.01',
    'picard_uniform_10',
    'inversion_uniform_10_tau0.1_pg1',
  ],
  'parallel_picard': ['window10_of50_tol0.1', 'window20_of20_tol0.1'],
  'ddim': ['encode_quad_10', 'slerp'],
}
KEPT = (
  'z_1',
  'x',
  'out',
  'x_0_after_each_sweep',
  'z_out',
  'decoded_again',
  'points',
  'target',
  'x_0',
  'grad_z_1',
)


def main(reference):
  """Writes chain.json and chain.npz."""
  cases, selected = [], {}
  for _, case, arrays in originals.chosen(reference, CASES):
    name = case['name']
    for key in KEPT:
      if key in arrays:
        selected[f'{name}/{key}'] = arrays[key]
    if 'seq' in arrays:
      times = np.append(arrays['seq'][::-1] + 1, 0) / 1000
      selected[f'{name}/t'] = times
    del case['arrays']
    cases.append(case)
  originals.write('chain', cases, selected)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
