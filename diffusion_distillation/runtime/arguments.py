"""Checks arguments from configs against the function that takes them."""

import inspect
import types
import typing
from collections.abc import Sequence

_COMPARED = (bool, int, float, str, types.NoneType)


def check_arguments(function, args, prefix, other=()):
  """Checks the names of arguments, and their types where they are annotated.

  Args:
    function: a function or a class. Annotations other than bool, int, float,
      str, None, their unions and sequences of them are not compared.
    args: mapping from names to values.
    prefix: name of their section of the config, with a final dot.
    other: names of parameters that the section does not set.

  Raises:
    ValueError: a parameter is unknown, or a value has another type.
  """
  parameters = inspect.signature(function).parameters
  known = [key for key in parameters if key not in other]
  for key, value in args.items():
    if key not in known:
      raise ValueError(f'unknown key {prefix}{key}; known: {", ".join(known)}')
    annotation = parameters[key].annotation
    if not _fits(value, annotation):
      wanted = inspect.formatannotation(annotation).rpartition('abc.')[2]
      raise ValueError(f'{prefix}{key} must be {wanted}, got {value!r}')


def _fits(value, annotation):
  origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is Sequence:
    return isinstance(value, list | tuple) and all(
      _fits(item, inner[0]) for item in value
    )
  kinds = inner if origin is types.UnionType else (annotation,)
  if any(kind not in _COMPARED for kind in kinds):
    return True
  # isinstance would accept True as an int.
  return type(value) in kinds or (float in kinds and type(value) is int)
