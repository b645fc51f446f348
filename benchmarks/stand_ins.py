"""What stands in for ml_collections and chex on a machine without them.

So the suites that measure an accelerator need JAX, Flax and optax alone.
"""

import contextlib
import importlib
import sys
import types


class ConfigDict(dict):
  """A mapping whose keys are attributes, too; what is nested is one as well.

  It has what configs/ and the package ask of ml_collections' ConfigDict, but
  checks no types and locks nothing.
  """

  def __init__(self, initial=()):
    super().__init__()
    self.update(initial)

  def __setitem__(self, key, value):
    nested = isinstance(value, dict) and not isinstance(value, ConfigDict)
    super().__setitem__(key, ConfigDict(value) if nested else value)

  def __getattr__(self, name):
    try:
      return self[name]
    except KeyError as error:
      raise AttributeError(name) from error

  __setattr__ = __setitem__
  __delattr__ = dict.__delitem__

  def update(self, other=(), **values):
    """Sets keys; what is a section here and there is updated, not replaced."""
    for key, value in {**dict(other), **values}.items():
      if isinstance(value, dict) and isinstance(self.get(key), ConfigDict):
        self[key].update(value)
      else:
        self[key] = value

  def to_dict(self):
    """Returns dicts of dicts."""
    return {
      key: value.to_dict() if isinstance(value, ConfigDict) else value
      for key, value in self.items()
    }

  def lock(self):
    """Returns itself."""
    return self

  def unlocked(self):
    """Returns a context that does nothing."""
    return contextlib.nullcontext()


def ml_collections():
  """Returns a module to be imported as ml_collections.

  An absent value is None, and a reference is the value that it begins with.
  """
  module = types.ModuleType('ml_collections')
  module.ConfigDict = ConfigDict
  module.config_dict = types.SimpleNamespace(
    placeholder=lambda field_type: None,
    FieldReference=lambda value, field_type=None: value,
  )
  return module


def chex():
  """Returns a module to be imported as chex, whose assertions do nothing."""
  module = types.ModuleType('chex')
  module.__getattr__ = lambda name: lambda *args, **kwargs: None
  return module


def provide():
  """Puts stand-ins where an import would fail."""
  for stand_in in (ml_collections, chex):
    name = stand_in.__name__
    try:
      importlib.import_module(name)
    except ImportError:
      sys.modules[name] = stand_in()
