"""How a part with options is spelled: NAME, or NAME:OPTION=VALUE,OPTION=VALUE.

The names are those of a table of factories, whose keyword arguments are the
options. A value has the type of the option's default or, where that is None, of
an annotation such as `float | None`.
"""

import inspect
import typing


def make(table, spelling, kind, **options):
  """Returns the part that a spelling and further options describe.

  Args:
    table: name -> factory.
    spelling: such as 'ancestral:gamma=0.3'.
    kind: what the table has, such as 'sampler', for error messages.
    **options: further options of the factory.

  Raises:
    ValueError: the name or an option is unknown, or a value is not valid.
  """
  name, spelled = parse(table, spelling, kind)
  options = {**spelled, **options}
  _check_options(table, name, options, kind)
  return table[name](**options)


def parse(table, spelling, kind):
  """Returns the name and the options, a dict, of a spelling.

  Args:
    table: name -> factory.
    spelling: such as 'ancestral:gamma=0.3'.
    kind: as in `make`.

  Raises:
    ValueError: the name or an option is unknown, or a value does not have the
      type of its option.
  """
  name, _, rest = str(spelling).partition(':')
  if name not in table:
    known = ', '.join(table)
    raise ValueError(f'unknown {kind} {name!r}; known: {known}')
  pairs = [pair.partition('=') for pair in rest.split(',') if pair.strip()]
  texts = {key.strip(): text.strip() for key, _, text in pairs}
  if len(texts) < len(pairs):
    raise ValueError(f'{kind} {spelling!r} gives an option twice')
  _check_options(table, name, texts, kind)
  known = options_of(table[name])
  return name, {
    key: _parse_value(f'option {key} of {kind} {name!r}', known[key], text)
    for key, text in texts.items()
  }


def canonical(table, spelling, kind):
  """Returns the canonical spelling of a part.

  Options are in the order of the factory's signature, and are left out if they
  have their default.

  Args:
    table: name -> factory.
    spelling: such as 'ancestral:gamma=0.3'.
    kind: as in `make`.

  Raises:
    ValueError: as in `make`.
  """
  name, options = parse(table, spelling, kind)
  table[name](**options)
  changed = [
    f'{key}={_spell_value(options[key])}'
    for key, option in options_of(table[name]).items()
    if options.get(key, option.default) != option.default
  ]
  return f'{name}:{",".join(changed)}' if changed else name


def options_of(factory):
  """Returns the options of a factory, name -> inspect.Parameter."""
  return inspect.signature(factory, eval_str=True).parameters


def _check_options(table, name, options, kind):
  known = options_of(table[name])
  for key in options:
    if key not in known:
      has = f'known: {", ".join(known)}' if known else 'it has none'
      raise ValueError(f'{kind} {name!r} has no option {key!r}; {has}')


def _parse_value(what, option, text):
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
    raise ValueError(f'{what} must be {kind.__name__}, got {text!r}') from None


def _spell_value(value):
  if not isinstance(value, float):
    return str(value)
  return str(value + 0.0).removesuffix('.0')  # -0.0 is spelled as 0.0
