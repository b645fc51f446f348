"""Runs one suite of measurements, prints a table and records a JSON line.

python -m benchmarks --suite=steps --config=configs/cifar10_distill.py

A suite is a module of this package with a function rows(subject), which returns
a list of mappings with the same keys. Each run adds a line to
benchmarks/results/SUITE.jsonl, with the versions and the hardware.
"""

import argparse
import ast
import datetime
import importlib.metadata
import json
import os
import pathlib
import sys

from benchmarks import subject
from diffusion_distillation.runtime import allocator, devices, run_folder
from diffusion_distillation.runtime.errors import UserError

SUITES = (
  'steps',
  'sampler',
  'input',
  'checkpoint',
  'startup',
  'rounds',
  'memory',
  'hlo',
  'parallel',
  'inversion',
)


def table(rows):
  """Returns rows, mappings with the same keys, as a text table."""
  cells = [list(rows[0]), *([_text(v) for v in row.values()] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return '\n'.join(
    '  '.join(
      text.ljust(width) for text, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in cells
  )


def _text(value):
  if value is None:
    return '-'
  if isinstance(value, float):
    return f'{value:,.1f}' if abs(value) >= 100 else f'{value:.3g}'
  return str(value)


def _options():
  """Returns the options of the command line."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks')
  parser.add_argument('--suite', required=True, choices=SUITES)
  add_config_options(parser)
  parser.add_argument(
    '--profile', help='folder for a profiler trace of one call of each function'
  )
  parser.add_argument(
    '--checkpoint',
    help='trained weights, for `parallel` and `inversion`',
  )
  return parser.parse_args()


def add_config_options(parser):
  """Adds the options that say what to measure: a config and its changes."""
  parser.add_argument(
    '--config',
    default='configs/digits_distill.py',
    help='config file to measure',
  )
  parser.add_argument(
    '--batch_size',
    type=lambda text: tuple(map(int, text.split(','))),
    default=(),
    help="one or several, such as 128,512; the default is the config's",
  )
  parser.add_argument(
    '--dtype', help="of the network, such as bfloat16; default: the config's"
  )
  parser.add_argument(
    '--set',
    type=_setting,
    action='append',
    default=[],
    metavar='KEY=VALUE',
    help='change a key of the config, such as model.args.remat=True',
  )


def _setting(text):
  """Returns (key, value) of KEY=VALUE; a value that is no literal is a str."""
  key, _, value = text.partition('=')
  try:
    return key, ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return key, value


def main():
  """Runs the suite that the command line names."""
  options = _options()
  allocator.keep_freed_memory()  # as main.py does
  suite = importlib.import_module(f'benchmarks.{options.suite}')
  # Taken before the suite starts, because the suite is itself a load.
  machine = {**devices.hardware(), 'load_average': os.getloadavg()[0]}
  try:
    measured = subject.read(
      options.config,
      options.batch_size,
      options.dtype,
      options.profile,
      options.checkpoint,
      dict(options.set),
    )
    rows = suite.rows(measured)
  except UserError as error:
    sys.exit(f'error: {error}')
  print(table(rows))
  record(options.suite, options, measured.config, machine, rows)


def record(name, options, config, machine, rows, packages=()):
  """Adds a line to benchmarks/results/NAME.jsonl.

  Args:
    name: name of the measurement.
    options: the command line's; see `add_config_options`.
    config: the config that was measured.
    machine: mapping that describes the hardware and its load.
    rows: what was measured.
    packages: packages whose versions matter besides those of a run.
  """
  result = {
    'date': datetime.date.today().isoformat(),
    'versions': {
      **run_folder.versions(),
      **{name: importlib.metadata.version(name) for name in packages},
    },
    'hardware': machine,
    'config': options.config,
    'dtype': config.model.args.dtype,
    'set': dict(options.set),
    'rows': rows,
  }
  path = pathlib.Path(__file__).with_name('results') / f'{name}.jsonl'
  path.parent.mkdir(exist_ok=True)
  with path.open('a') as file:
    file.write(json.dumps(result) + '\n')


if __name__ == '__main__':
  main()
