"""The config file that --config names: finding, running and checking it."""

import difflib
import importlib.machinery
import importlib.util
import os
import pathlib
import traceback

from ml_collections import ConfigDict

from diffusion_distillation.runtime.errors import UserError

# Sections whose keys depend on another key, such as the network's name. They
# are checked where they are read.
_OPEN = (
  'dataset.args',
  'model.args',
  'model.train_logsnr_schedule',
  'model.eval_logsnr_schedule',
  'teacher.model.args',
  'distillation.methods',
)

# Files in configs/ that do not describe a run by themselves.
_NO_RUNS = ('__init__', 'base', 'google', 'paper')


def load(text):
  """Returns the config of a config file, with every key of configs/base.py.

  Args:
    text: FILE.py, or the name of a config of this project such as
      `digits_distill`. The part after a colon is the argument of `get_config`.

  Raises:
    UserError: there is no such file, it fails, or its keys are not those of
      configs/base.py.
  """
  config = run(text)
  base = importlib.import_module('.base', package().__name__).get_config()
  _check_keys(config, base, text)
  return config


def run(text):
  """Returns the ConfigDict of a config file, with whatever keys it has.

  The file runs as a module of the package of configs, so that `from . import
  base` also works in a copy of a config that is kept elsewhere.

  Raises:
    UserError: there is no such file, or it fails; the message names the line.
  """
  name, *argument = text.split(':', 1)
  path = _find(name)
  module_name = f'{package().__name__}.{path.stem}'
  loader = importlib.machinery.SourceFileLoader(module_name, str(path))
  spec = importlib.util.spec_from_file_location(module_name, loader=loader)
  module = importlib.util.module_from_spec(spec)
  try:
    loader.exec_module(module)
    config = module.get_config(*argument)
    if not isinstance(config, ConfigDict | dict):
      raise TypeError(f'get_config() returns {config!r}, not a ConfigDict')
    return ConfigDict(config)
  except UserError:
    raise
  except BaseException as error:  # a config file runs any code
    message = getattr(error, 'msg', error)  # a SyntaxError without its place
    message = ' '.join(f'{type(error).__name__}: {message}'.split())
    raise UserError(f'{_place(error, path, module)}: {message}') from error


def package():
  """Returns the package of configs: the installed one, or the checkout's."""
  installed = 'diffusion_distillation.configs'
  is_installed = importlib.util.find_spec(installed) is not None
  return importlib.import_module(installed if is_installed else 'configs')


def available():
  """Returns {name: first line of its docstring} of the package's configs.

  The files are not run, so that one with a mistake does no harm here.
  """
  return {
    path.stem: path.read_text(errors='replace').partition('\n')[0].strip('"')
    for path in sorted(_folder().glob('*.py'))
    if path.stem not in _NO_RUNS
  }


def near(key, config, prefix=''):
  """Returns the end of a message, which suggests similar keys of a config.

  Args:
    key: dotted name of a key that the config does not have.
    config: a ConfigDict.
    prefix: dotted name of the section that `config` is, with a last dot.
  """
  similar = difflib.get_close_matches(key, _names(config, prefix))
  if similar:
    return f'; did you mean {" or ".join(similar)}?'
  return '; configs/base.py lists all keys'


def _folder():
  return pathlib.Path(package().__path__[0])


def _find(name):
  """Returns the path of a config file.

  Raises:
    UserError: there is no config file of that name.
  """
  path = pathlib.Path(os.path.expanduser(name))
  if path.suffix not in ('', '.py'):
    raise UserError(f'{name} is not a config file: give FILE.py, a Python file')
  if path.is_file():
    return path
  packaged = _folder() / f'{path.stem}.py'
  if str(path.parent) in ('.', 'configs') and packaged.is_file():
    return packaged
  raise UserError(
    f'no config file {name}; configs/ has: {", ".join(available())}'
  )


def _place(error, path, module):
  """Returns the file and line of a config where an error arose."""
  if isinstance(error, SyntaxError):
    return f'{error.filename}, line {error.lineno}'
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path)]
  if not lines and hasattr(module, 'get_config'):
    lines = [module.get_config.__code__.co_firstlineno]
  return f'{path}, line {lines[-1]}' if lines else str(path)


def _check_keys(config, base, text, prefix=''):
  """Checks that a config has the keys of the base config, and no others.

  Raises:
    UserError: a key is missing or unknown; the message names it.
  """
  for key in config:
    if key not in base:
      name = f'{prefix}{key}'
      raise UserError(f'{text}: unknown key {name}{near(name, base, prefix)}')
  for key, value in base.items():
    name = f'{prefix}{key}'
    if key not in config:
      raise UserError(
        f'{text}: the key {name} is missing; start from base.get_config()'
      )
    if isinstance(value, ConfigDict):
      if not isinstance(config[key], ConfigDict):
        raise UserError(
          f'{text}: {name} must be a section, a ConfigDict, got {config[key]!r}'
        )
      if name not in _OPEN:
        _check_keys(config[key], value, text, f'{name}.')


def _names(config, prefix=''):
  """Yields the dotted names of all keys of a config except sections."""
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      yield from _names(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}'
