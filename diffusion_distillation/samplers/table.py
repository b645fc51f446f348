"""The table of samplers, and the spelling of a sampler with its time grid.

The spelling is the same in flags, configs, checkpoint cards and reports:

  SAMPLER[:OPTION=VALUE,...][@GRID[:OPTION=VALUE,...]]

with names in SAMPLERS and GRIDS, such as 'ancestral:gamma=0.3' or
'dpmpp_2m@karras:rho=5'. Without a grid it is 'uniform'.
"""

from diffusion_distillation.runtime import spelling as spellings
from diffusion_distillation.samplers.consistency import consistency
from diffusion_distillation.samplers.ddim import ancestral, ddim, stochastic
from diffusion_distillation.samplers.dpm_solver import (
  dpm_2m,
  dpm_2s,
  dpm_3m,
  dpm_3s,
  dpmpp_2m,
  dpmpp_2s,
  dpmpp_3m,
  dpmpp_3s,
)
from diffusion_distillation.samplers.gamma import gamma_ddim
from diffusion_distillation.samplers.grids import GRIDS, make_grid
from diffusion_distillation.samplers.ode import euler, euler_t, heun, rk4
from diffusion_distillation.samplers.sampler import Sampler
from diffusion_distillation.samplers.sde import (
  annealed_langevin,
  euler_maruyama,
  predictor_corrector,
  reverse_diffusion,
)
from diffusion_distillation.samplers.unipc import unipc

# name -> factory of a Sampler, whose keyword arguments are the options.
SAMPLERS = {
  'ddim': ddim,
  'ancestral': ancestral,
  'stochastic': stochastic,
  'consistency': consistency,
  'euler_t': euler_t,
  'euler': euler,
  'heun': heun,
  'rk4': rk4,
  'dpmpp_2s': dpmpp_2s,
  'dpmpp_3s': dpmpp_3s,
  'dpmpp_2m': dpmpp_2m,
  'dpmpp_3m': dpmpp_3m,
  'dpm_2s': dpm_2s,
  'dpm_3s': dpm_3s,
  'dpm_2m': dpm_2m,
  'dpm_3m': dpm_3m,
  'unipc': unipc,
  'euler_maruyama': euler_maruyama,
  'reverse_diffusion': reverse_diffusion,
  'predictor_corrector': predictor_corrector,
  'annealed_langevin': annealed_langevin,
  'gamma_ddim': gamma_ddim,
}
UNIFORM = 'uniform'


def make_sampler(sampler, **options):
  """Returns a Sampler.

  Args:
    sampler: spelling of a sampler, such as 'ddim' or 'ancestral:gamma=0.3'; a
      Sampler is returned unchanged. The time grid in it is checked; `sample`
      applies it.
    **options: further options of the sampler.

  Raises:
    ValueError: the sampler, its grid or an option is unknown, or a value is not
      valid.
  """
  if isinstance(sampler, Sampler):
    if options:
      raise ValueError(f'a Sampler has its options already; got {options}')
    return sampler
  name, grid = split(sampler)
  spellings.make(GRIDS, grid, 'time grid')
  return spellings.make(SAMPLERS, name, 'sampler', **options)


def make_both(sampler, grid, schedule, options):
  """Returns a Sampler, and time(index, num_steps) of a time grid.

  Args:
    sampler: spelling of a sampler, or a Sampler.
    grid: as in `make_grid`; None is the grid of the sampler's spelling.
    schedule: t -> logsnr.
    options: dict of further options of the sampler, or else of the grid.

  Raises:
    ValueError: as in `make_sampler` and `make_grid`.
  """
  own = ()
  if not isinstance(sampler, Sampler):
    name, spelled = split(sampler)
    grid = spelled if grid is None else grid
    own = _known_options(SAMPLERS, name, 'sampler')
  of_grid = ()
  if isinstance(grid, str):
    of_grid = _known_options(GRIDS, grid, 'time grid')
  theirs = {k: v for k, v in options.items() if k in of_grid and k not in own}
  rest = {k: v for k, v in options.items() if k not in theirs}
  return make_sampler(sampler, **rest), make_grid(grid, schedule, **theirs)


def _known_options(table, spelling, kind):
  name, _ = spellings.parse(table, spelling, kind)
  return spellings.options_of(table[name])


def split(spelling):
  """Splits a spelling into that of a sampler and that of its time grid."""
  sampler, _, grid = str(spelling).partition('@')
  return sampler, grid or UNIFORM


def canonical(spelling):
  """Returns the canonical spelling of a sampler.

  Options and the grid are left out if they have their default.

  Raises:
    ValueError: as in `make_sampler`.
  """
  sampler, grid = split(spelling)
  sampler = spellings.canonical(SAMPLERS, sampler, 'sampler')
  grid = spellings.canonical(GRIDS, grid, 'time grid')
  return sampler if grid == UNIFORM else f'{sampler}@{grid}'
