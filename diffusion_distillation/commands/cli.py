"""The command line: its flags, its help, and how its errors are shown."""

import difflib
import keyword
import os
import pathlib
import pkgutil
import re
import signal
import sys
import textwrap

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from diffusion_distillation.commands import MODES, config_file
from diffusion_distillation.runtime import signals
from diffusion_distillation.runtime.errors import UserError

_HELP = """\
Trains diffusion models, distills them into samplers of a few steps, and
evaluates them.

  {program} --config=FILE.py --workdir=DIR [--mode=MODE]
    [--config.KEY=VALUE ...]

Rerun the same command to resume a run. In a distill config, `model` and `train`
describe the students, and `teacher` has what differs in the teacher's training.

Modes, with their flags; the default is train:
{modes}
Flags:
{flags}
Configs, in configs/:
{configs}
Examples:
  {program} --config=configs/digits_distill.py --workdir=runs/digits
  {program} --mode=sample --checkpoint=runs/digits/student_00004
    --seeds=0-63 --out=samples
  {program} --config=configs/folder_distill.py --workdir=runs/mine
    --config.dataset.args.path=FOLDER --config.teacher.train.batch_size=64
    --config.train.batch_size=64
"""
# What is typed to run a file; the installed command has its own name.
_PROGRAMS = {
  'main.py': 'python main.py',
  '__main__.py': 'python -m diffusion_distillation',
}
# Name of a flag -> the form of its value, and what it is.
_FLAGS = {
  'config': ('FILE.py', 'config file, or the name of one of those below'),
  'workdir': ('DIR', 'run folder'),
  'checkpoint': (
    'PATH',
    'such as runs/digits/student_00004, or a weights file',
  ),
  'out': ('PATH', 'FILE.npz, FILE.png or a folder; export: a file'),
  'images': ('PATH', 'images in a FILE.npz, FILE.zip or folder'),
  'sampler': ('NAME:OPTIONS', 'such as ancestral:gamma=0.3'),
  'grid': ('NAME:OPTIONS', 'time grid, such as karras:rho=5'),
  'num_steps': ('N', 'sampling steps'),
  'seeds': ('LIST', 'one image each, such as 0-63 (the default) or 1,5,9'),
  'split': ('NAME', 'heldout (the default) or train'),
  'num_images': ('N', 'images to measure; all by default'),
  'dequantization': ('NAME', 'centered (the default) or score_sde'),
  'num': ('N', 'interpolate: images in a row, 11 by default'),
  'iterations': ('N', 'encode: corrections of each step, 0 by default'),
  'class': ('LIST', 'classes in turn, such as 3 or 1,5; all by default'),
  'coordinator': ('HOST:PORT', 'where process 0 of several listens'),
  'num_processes': ('N', 'how many processes train together'),
  'process_id': ('I', 'number of this process, from 0'),
}
# The flags that are integers, with their smallest and largest values.
_INTEGERS = {
  'num_steps': (1, 2**20),
  'num_images': (2, None),
  'num': (2, 1000),
  'iterations': (0, 1000),
  'num_processes': (1, None),
  'process_id': (0, None),
}
_OVERRIDE = re.compile(r'--?(?:no)?config\.([^=]+)=?(.*)', re.DOTALL)


def main():
  """Runs the command line of this process."""
  signals.use_system_defaults()
  try:
    run(sys.argv)
    if sys.stdout is not None:  # it is None if the process began without one
      sys.stdout.flush()  # an error at the exit could not be caught
  except BrokenPipeError:
    # The reader has closed the pipe, as in `... | head -1`: end by SIGPIPE, as
    # other programs do.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.raise_signal(signal.SIGPIPE)
  except OSError as error:  # of stdout; `run` reports those of files
    # Python flushes stdout again at the exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(f'error: cannot write to stdout: {error.strerror}')


def run(argv):
  """Runs a command line.

  Args:
    argv: the program's name and its arguments.

  Raises:
    SystemExit: with the line that tells the user what is wrong, or with the
      status of a run that was asked to stop.
  """
  if {'--help', '-help', '-h'} & set(argv):
    print(_help(argv[0]), end='')
    return
  known = _define_flags()
  try:
    _run_mode(*parse(argv, known))
  except signals.Stopped as stop:
    print(stop, file=sys.stderr)
    sys.exit(signals.STATUS)
  except (UserError, OSError) as error:
    is_known = isinstance(error, UserError) or error.filename is not None
    if known['debug'].value or not is_known:
      raise
    line = error
    if isinstance(error, OSError):
      line = f'{error.strerror}: {error.filename}'
    sys.exit(f'error: {line}')


def parse(argv, known=None):
  """Returns the name of the mode and the values of the flags that it takes.

  Args:
    argv: the program's name and its arguments.
    known: FlagValues that get the values of all flags, if given.

  Raises:
    UserError: a flag or the config is wrong.
  """
  known = _define_flags() if known is None else known
  for arg in argv[1:]:
    if arg != arg.encode(errors='ignore').decode():
      raise UserError(f'{arg!r} is not UTF-8; rename the file or folder')
  try:
    # The flags --config.KEY are not known before the config file is read.
    rest = known(argv, known_only=True)
    values = {name: _expand(known[name].value) for name in _FLAGS}
    values = {name: v for name, v in values.items() if v not in (None, '')}
    if 'config' in values:
      values['config'] = config_file.load(values['config'])
    _change(values.get('config'), rest, known)
  except flags.Error as error:
    raise UserError(' '.join(str(error).split())) from error
  mode = known['mode'].value
  _check_flags(mode, values)
  return mode, values


def _define_flags():
  """Returns the FlagValues of all flags but those that change a config."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)  # flags may follow other arguments
  flags.DEFINE_enum('mode', 'train', MODES, '', flag_values=values)
  flags.DEFINE_bool('debug', False, '', flag_values=values)
  for name in _FLAGS:
    if name in _INTEGERS:
      flags.DEFINE_integer(name, None, '', *_INTEGERS[name], values)
    else:
      flags.DEFINE_string(name, None, '', values)
  return values


def _expand(value):
  """Returns a flag's value; shells leave the ~ of --workdir=~/runs alone."""
  return os.path.expanduser(value) if isinstance(value, str) else value


def _change(config, argv, known):
  """Makes the changes of --config.KEY=VALUE to a config.

  Args:
    config: a ConfigDict, or None.
    argv: the arguments that are not other flags.
    known: FlagValues of the other flags, for the error message.

  Raises:
    UserError: there is no such key, or an argument is not a flag.
    flags.Error: a value has the wrong type.
  """
  changes, given = flags.FlagValues(), {}
  if config is not None:
    for key, text in (m.groups() for m in map(_OVERRIDE.match, argv) if m):
      _check_key(key, config)
      given[key] = text
    argv = [arg for arg in argv if not _is_no_number(arg, config)]
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=changes, sys_argv=argv
    )
  try:
    rest = changes(argv)
    for key, text in given.items():
      if config_path.get_type(key, config) in (int, float, str):
        value = _expand(config_path.get_value(key, config))
        is_none = text == 'None' or value in ('', 'None')
        config_path.set_value(key, config, None if is_none else value)
  except flags.UnrecognizedFlagError as error:
    name = error.flagname
    similar = difflib.get_close_matches(name, list(known))
    hint = f'did you mean --{similar[0]}?' if similar else 'see --help'
    if name.startswith('config.'):
      hint = 'give --config=FILE.py as well'
    raise UserError(f'unknown flag --{name}; {hint}') from None
  except (LookupError, TypeError, ValueError) as error:
    # The key is, for example, an index into a tuple.
    raise flags.Error(str(error)) from error
  if rest[1:]:
    raise UserError(f'{rest[1]!r} is not a flag; flags start with --')


def _is_no_number(arg, config):
  """Returns whether an argument sets a number to None."""
  match = _OVERRIDE.fullmatch(arg)
  return (
    match is not None
    and match[2] == 'None'
    and config_path.get_type(match[1], config) in (int, float)
  )


def _check_key(key, config):
  """Raises UserError for a dotted key that a config does not have."""
  try:
    config_path.get_type(key, config)
  except (KeyError, AttributeError, TypeError, ValueError):
    hint = config_file.near(key, config)
    raise UserError(f'unknown key --config.{key}{hint}') from None


def _check_flags(mode, values):
  """Raises UserError where a mode lacks a flag, or has one of another mode."""
  needs, takes = MODES[mode].needs, MODES[mode].takes
  for name in values:
    if name not in needs + takes:
      known = ', '.join(f'--{name}' for name in needs + takes)
      raise UserError(f'--mode={mode} does not take --{name}; it takes {known}')
  for name in needs:
    if name not in values:
      raise UserError(
        f'--mode={mode} needs --{name}={_FLAGS[name][0]}; see --help'
      )


def _run_mode(name, values):
  """Runs one mode."""
  # This imports JAX, which takes long and is not needed for --help and errors.
  function = pkgutil.resolve_name(MODES[name].function)
  from diffusion_distillation.runtime import allocator, devices
  from diffusion_distillation.training.config import spell_samplers

  allocator.keep_freed_memory()
  if 'config' in values:
    spell_samplers(values['config'])
    devices.use_compilation_cache(values['config'].compilation_cache_dir)
  function(
    **{
      f'{flag}_' if keyword.iskeyword(flag) else flag: value
      for flag, value in values.items()
    }
  )


def _help(program):
  """Returns the text of --help."""
  name = pathlib.Path(program).name
  modes = []
  for mode, row in MODES.items():
    takes = [f'--{flag}' for flag in row.needs]
    takes += [f'[--{flag}]' for flag in row.takes]
    wrapped = textwrap.wrap(' '.join(takes), 64)
    modes += [(mode, row.help), *(('', line) for line in wrapped)]
  rows = [(f'--{flag}={form}', text) for flag, (form, text) in _FLAGS.items()]
  rows.append(('--debug', 'show the traceback of an error'))
  return _HELP.format(
    program=_PROGRAMS.get(name, name),
    modes=_table(modes),
    flags=_table(rows),
    configs=_table(config_file.available().items()),
  )


def _table(rows):
  """Returns rows of two columns as indented text."""
  rows = list(rows)
  width = max(len(first) for first, _ in rows) + 2
  return ''.join(f'  {first:<{width}}{second}\n' for first, second in rows)
