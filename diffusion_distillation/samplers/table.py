"""The table of samplers, and the spelling of a sampler with its options.

The spelling is the same in flags, configs, checkpoint cards and reports: a name
in SAMPLERS, and after a colon the options, `ancestral:gamma=0.3`. Every sampler
has the option `grid`, a name in GRIDS.
"""

import inspect
import typing

from diffusion_distillation.samplers import grids
from diffusion_distillation.samplers.ddim import ancestral, ddim, stochastic
from diffusion_distillation.samplers.ode import euler, euler_t, heun, rk4
from diffusion_distillation.samplers.sampler import Sampler

# name -> factory of a Sampler, whose keyword arguments are the options. If a
# default is None, an annotation such as float | None gives the option's type.
SAMPLERS = {
  'ddim': ddim,
  'ancestral': ancestral,
  'stochastic': stochastic,
  'euler_t': euler_t,
  'euler': euler,
  'heun': heun,
  'rk4': rk4,
}
# The option that every sampler has in addition to its own.
_GRID = inspect.Parameter(
  'grid', inspect.Parameter.KEYWORD_ONLY, default='uniform'
)


def make_sampler(sampler, **options):
  """Returns a Sampler.

  Args:
    sampler: spelling of a sampler, such as 'ddim' or 'ancestral:gamma=0.3'; a
      Sampler is returned unchanged.
    **options: further options of the sampler. `sample` applies the time grid;
      only its name is checked here.

  Raises:
    ValueError: the sampler or an option is unknown, or a value is not valid.
  """
  if isinstance(sampler, Sampler) and not options:
    return sampler
  name, spelled = parse(sampler)
  options = {**spelled, **options}
  _check_options(name, options)
  grids.factory(options.pop('grid', _GRID.default))
  return SAMPLERS[name](**options)


def parse(spelling):
  """Returns the name and the options, a dict, of a sampler's spelling.

  Raises:
    ValueError: the sampler or an option is unknown, or a value does not have
      the type of its option.
  """
  name, _, rest = str(spelling).partition(':')
  if name not in SAMPLERS:
    known = ', '.join(SAMPLERS)
    raise ValueError(f'unknown sampler {spelling!r}; known: {known}')
  pairs = [pair.partition('=') for pair in rest.split(',') if pair.strip()]
  texts = {key.strip(): text.strip() for key, _, text in pairs}
  if len(texts) < len(pairs):
    raise ValueError(f'sampler {spelling!r} has an option twice')
  _check_options(name, texts)
  known = _options(name)
  return name, {
    key: _parse_value(name, known[key], text) for key, text in texts.items()
  }


def canonical(spelling):
  """Returns the canonical spelling of a sampler.

  Options are in the order of the factory's signature, with the grid last, and
  are left out if they have their default.

  Raises:
    ValueError: as in `parse`, or the factory does not accept a value.
  """
  name, options = parse(spelling)
  make_sampler(name, **options)
  changed = [
    f'{key}={_spell_value(options[key])}'
    for key, option in _options(name).items()
    if options.get(key, option.default) != option.default
  ]
  return f'{name}:{",".join(changed)}' if changed else name


def grid_of(sampler):
  """Returns the time grid that a sampler's spelling names.

  Args:
    sampler: spelling of a sampler, or a Sampler, which names no grid.

  Raises:
    ValueError: as in `parse`.
  """
  options = {} if isinstance(sampler, Sampler) else parse(sampler)[1]
  return options.get('grid', _GRID.default)


def _options(name):
  """Returns the options of a sampler, name -> inspect.Parameter."""
  own = inspect.signature(SAMPLERS[name], eval_str=True).parameters
  return {**own, _GRID.name: _GRID}


def _check_options(name, options):
  known = _options(name)
  for key in options:
    if key not in known:
      raise ValueError(
        f'sampler {name!r} has no option {key!r}; known: {", ".join(known)}'
      )


def _parse_value(name, option, text):
  kind = type(option.default)
  if option.default is None:
    if text == 'None':
      return None
    kind = typing.get_args(option.annotation)[0]
  if kind is bool and text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return text if kind is str else {int: int, float: float}[kind](text)
  except (KeyError, ValueError):
    raise ValueError(
      f'option {option.name} of sampler {name!r} must be {kind.__name__}, got '
      f'{text!r}'
    ) from None


def _spell_value(value):
  if not isinstance(value, float):
    return str(value)
  return str(value + 0.0).removesuffix('.0')  # -0.0 is spelled as 0.0
