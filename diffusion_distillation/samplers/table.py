"""The table of samplers, and how one is spelled together with its options.

The spelling is the same in flags, configs, checkpoint cards and reports: a name
in SAMPLERS, and after a colon the options, `ancestral:gamma=0.3`.
"""

import inspect

from diffusion_distillation.samplers.ddim import ancestral, ddim, stochastic
from diffusion_distillation.samplers.ode import euler, euler_t, heun, rk4
from diffusion_distillation.samplers.sampler import Sampler

# name -> factory of a Sampler, whose keyword arguments are the options.
SAMPLERS = {
  'ddim': ddim,
  'ancestral': ancestral,
  'stochastic': stochastic,
  'euler_t': euler_t,
  'euler': euler,
  'heun': heun,
  'rk4': rk4,
}


def make_sampler(sampler, **options):
  """Returns a Sampler.

  Args:
    sampler: its spelling, such as 'ddim' or 'ancestral:gamma=0.3'; a Sampler is
      returned as it is.
    **options: further options of the sampler.

  Raises:
    ValueError: there is no such sampler or option, or a value makes no sense.
  """
  if isinstance(sampler, Sampler) and not options:
    return sampler
  name, spelled = parse(sampler)
  options = {**spelled, **options}
  _check_options(name, options)
  return SAMPLERS[name](**options)


def parse(spelling):
  """Returns the name and the options, a dict, of a sampler's spelling.

  Raises:
    ValueError: there is no such sampler or option, or a value has another type
      than the option's default.
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
  defaults = _defaults(name)
  return name, {
    key: _parse_value(name, key, text, type(defaults[key]))
    for key, text in texts.items()
  }


def canonical(spelling):
  """Returns the one spelling of a sampler that all its spellings have.

  Options are in the order of the factory's signature, and left out where they
  have their default.

  Raises:
    ValueError: as `parse`, or the factory refuses a value.
  """
  name, options = parse(spelling)
  make_sampler(name, **options)
  changed = [
    f'{key}={_spell_value(options[key])}'
    for key, default in _defaults(name).items()
    if options.get(key, default) != default
  ]
  return f'{name}:{",".join(changed)}' if changed else name


def _defaults(name):
  parameters = inspect.signature(SAMPLERS[name]).parameters
  return {key: parameter.default for key, parameter in parameters.items()}


def _check_options(name, options):
  known = _defaults(name)
  for key in options:
    if key not in known:
      raise ValueError(
        f'sampler {name!r} has no option {key!r}; '
        + (f'known: {", ".join(known)}' if known else 'it has none')
      )


def _parse_value(name, key, text, kind):
  if kind is bool and text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return text if kind is str else {int: int, float: float}[kind](text)
  except (KeyError, ValueError):
    raise ValueError(
      f'option {key} of sampler {name!r} must be {kind.__name__}, got {text!r}'
    ) from None


def _spell_value(value):
  text = str(value)
  return text.removesuffix('.0') if isinstance(value, float) else text
