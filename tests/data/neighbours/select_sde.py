"""Selects reference numbers of SDEs: python select_sde.py REFERENCE.

REFERENCE is a folder of numbers that were made with the original programs; see
tests/data/README.md.
"""

import pathlib
import sys

import numpy as np
import originals

CASES = {
  'sde_samplers': [
    'pc_vp_10_euler_maruyama_none_mixture_mean',
    'pc_vp_22_reverse_diffusion_none_mixture_mean',
    'pc_vp_22_ancestral_sampling_none_mixture_mean',
    'pc_vp_22_euler_maruyama_langevin_mixture_mean',
    'pc_subvp_10_euler_maruyama_none_mixture_mean',
    'pc_ve_10_euler_maruyama_none_mixture_mean',
    'pc_ve_10_ancestral_sampling_none_mixture_mean',
    'pc_ve_8_reverse_diffusion_langevin_mixture_mean',
    'pc_ve_4_none_ald_mixture_mean',
  ],
  'ncsn': [
    'langevin_1_0.01_10_geometric_10_denoise0_mixture',
    'langevin_1_0.01_10_geometric_10_denoise1_mixture',
    'langevin_50_0.01_30_geometric_3_denoise1_mixture',
    'langevin_1_0.1_5_uniform_10_denoise1_mixture',
  ],
}


def main(reference):
  """Writes sde.json and sde.npz."""
  cases, selected = [], {}
  for _, case, arrays in originals.chosen(reference, CASES):
    cases.append(case)
    for key, at in case['arrays'].items():
      selected[at] = arrays[key].astype(np.float32)
  originals.write('sde', cases, selected)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
