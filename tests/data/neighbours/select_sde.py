"""Selects reference numbers of SDEs: python select_sde.py REFERENCE.

REFERENCE is a folder of numbers that were made with the original programs; see
tests/data/README.md.
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
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
  for family, names in CASES.items():
    described = json.loads((reference / f'{family}.json').read_text())
    stored = np.load(reference / f'{family}.npz')
    of_name = {case['name']: case for case in described['cases']}
    for name in names:
      case = of_name[name]
      cases.append(case | {'original': described['original']})
      for key in case['arrays'].values():
        selected[key] = stored[key].astype(np.float32)
  (HERE / 'sde.json').write_text(json.dumps({'cases': cases}, indent=1))
  np.savez_compressed(HERE / 'sde.npz', **selected)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
