"""Selects reference numbers of the solvers: python select_solvers.py REFERENCE.

REFERENCE is a folder of numbers that were made with the original programs; see
tests/data/README.md. Times are written as grids of `samplers.sample`.
"""

import pathlib
import shutil
import sys

import numpy as np
import originals
from scipy import optimize

CASES = {
  'ddim': ['quad_10_eta0.5_mixture', 'ddpm_noisy_quad_10'],
  'dpm_solver_pp': [
    'cosine_dpmsolver++_singlestep_2_time_uniform_10_tend0.001',
    'cosine_dpmsolver++_singlestep_3_time_quadratic_10_tend0.001',
    'linear_dpmsolver++_singlestep_3_logSNR_9_tend0.001_solver_type-taylor',
    'cosine_dpmsolver++_multistep_2_time_uniform_10_tend0.001',
    'cosine_dpmsolver++_multistep_3_time_uniform_5_tend0.001',
  ],
  'dpm_solver': [
    'linear_dpmsolver_singlestep_2_time_uniform_10_tend0.001',
    'cosine_dpmsolver_singlestep_3_logSNR_20_tend0.001',
    'cosine_dpmsolver_multistep_2_time_uniform_10_tend0.001',
    'linear_dpmsolver_multistep_3_time_uniform_10_tend0.001',
  ],
  'solvers_more': [
    'unipc_bh2_2_10_time_uniform_x_low1',
    'unipc_bh1_2_8_time_uniform_eps_low1',
    'unipc_bh2_3_6_logSNR_x_low0',
    'diffusers_dpm_10_dpmsolver++_2_heun_True_sigma_min',
    'diffusers_dpm_20_dpmsolver++_3_midpoint_True_zero',
  ],
  'flow': ['mixture_-10_to_4', 'mixture_-20_to_20'],
}


def linear(t):
  """Returns the log-SNR of the schedule `linear`."""
  twice = -(19.9 / 2) * t**2 - 0.1 * t
  return twice - np.log(-np.expm1(twice))


def grid_of(case, arrays):
  """Returns the falling times of a case; 0 is data."""
  if 't' in case['arrays']:  # DPM-Solver
    return np.minimum(arrays['t'], 1)
  if 'seq' in arrays:  # DDIM
    return np.append(arrays['seq'][::-1] + 1, 0) / 1000
  if 'timesteps' in arrays:  # diffusers
    last = 0 if case['final_sigmas_type'] == 'zero' else 1
    return np.append(arrays['timesteps'] + 1, last) / 1000
  if case['skip_type'] == 'time_uniform':  # UniPC
    return np.linspace(1, case['t_end'], case['steps'] + 1)
  levels = np.linspace(linear(1), linear(case['t_end']), case['steps'] + 1)
  inner = [
    optimize.brentq(lambda t, level=level: linear(t) - level, 1e-4, 1)
    for level in levels[1:-1]
  ]
  return np.array([1, *inner, case['t_end']])


def main(reference):
  """Writes solvers.json, solvers.npz and denoiser.npz."""
  cases, selected = [], {}
  for family, case, arrays in originals.chosen(reference, CASES):
    name = case['name']
    starts, ends = ('z_1', 'z_start'), ('z_end', 'out')
    (selected[f'{name}/start'],) = (arrays[k] for k in starts if k in arrays)
    (selected[f'{name}/end'],) = (arrays[k] for k in ends if k in arrays)
    about = {'name': name, 'original': case['original']}
    if family != 'flow':
      selected[f'{name}/t'] = grid_of(case, arrays)
      about |= {key: case[key] for key in ('schedule', 'float32_error')}
    if 'noise' in arrays:
      num_steps = len(selected[f'{name}/t']) - 1
      selected[f'{name}/noise'] = arrays['noise'][:num_steps]
    cases.append(about)
  originals.write('solvers', cases, selected)
  shutil.copy(reference / 'denoiser.npz', originals.HERE)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
