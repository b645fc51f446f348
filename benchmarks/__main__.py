"""Runs a suite of measurements, prints a table and keeps it as one JSON line.

python -m benchmarks --suite=steps --config=configs/cifar10_distill.py

A suite is a module here whose `rows(subject)` returns a list of mappings with
the same keys. Each run adds a line to benchmarks/results/SUITE.jsonl, with the
versions and the hardware.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform

import jax

from benchmarks import stand_ins
from diffusion_distillation.runtime import allocator

SUITES = (
  'steps',
  'sampler',
  'input',
  'checkpoint',
  'startup',
  'rounds',
  'memory',
)
# Whose versions are told, where they are installed.
_PACKAGES = (
  'jax',
  'jaxlib',
  'jax-cuda12-plugin',
  'jax-cuda13-plugin',
  'libtpu',
  'flax',
  'optax',
  'chex',
  'orbax-checkpoint',
  'grain',
  'ml-collections',
  'numpy',
)


def versions():
  """Returns the versions of what is installed, a dict."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def hardware():
  """Returns what the measurements are made on, and how busy it is."""
  cpu = platform.processor()
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    models = [
      line.partition(':')[2].strip()
      for line in cpuinfo.read_text().splitlines()
      if line.startswith('model name')
    ]
    cpu = models[0] if models else cpu
  devices = [device.device_kind for device in jax.devices()]
  return {
    'cpu': cpu,
    'cores': os.cpu_count(),
    'load_average': os.getloadavg()[0],
    'devices': devices,
  }


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
  """Returns what the command line asks for."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks')
  parser.add_argument('--suite', required=True, choices=SUITES)
  parser.add_argument(
    '--config',
    default='configs/digits_distill.py',
    help='the config to measure, a file',
  )
  parser.add_argument(
    '--batch_size',
    type=lambda text: tuple(map(int, text.split(','))),
    default=(),
    help="one or more, 128,512; by default the config's",
  )
  parser.add_argument('--dtype', help='of the network, such as bfloat16')
  parser.add_argument('--profile', help='a folder for a trace of the calls')
  return parser.parse_args()


def main():
  options = _options()
  allocator.keep_freed_memory()  # as main.py does
  stand_ins.provide()
  # Imported here: they need what stands in.
  subject = importlib.import_module('benchmarks.subject').read(
    options.config, options.batch_size, options.dtype, options.profile
  )
  suite = importlib.import_module(f'benchmarks.{options.suite}')
  machine = hardware()  # before the suite is itself a load
  rows = suite.rows(subject)
  print(table(rows))
  result = {
    'date': datetime.date.today().isoformat(),
    'versions': versions(),
    'hardware': machine,
    'config': options.config,
    'dtype': subject.config.model.args.dtype,
    'rows': rows,
  }
  path = pathlib.Path(__file__).with_name('results') / f'{options.suite}.jsonl'
  path.parent.mkdir(exist_ok=True)
  with path.open('a') as file:
    file.write(json.dumps(result) + '\n')


if __name__ == '__main__':
  main()
