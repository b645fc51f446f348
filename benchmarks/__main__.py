"""Runs a suite of measurements, prints a table and keeps it as one JSON line.

python -m benchmarks --suite=input

A suite is a module here whose `rows()` returns a list of mappings with the same
keys. Each run adds a line to benchmarks/results/SUITE.jsonl, with the versions
and the hardware.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import platform

import jax

from diffusion_distillation.training.run_folder import versions

SUITES = ('input',)


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
  return f'{value:,.1f}' if isinstance(value, float) else str(value)


def main():
  parser = argparse.ArgumentParser(prog='python -m benchmarks')
  parser.add_argument('--suite', required=True, choices=SUITES)
  suite = parser.parse_args().suite
  machine = hardware()  # before the suite is itself a load
  rows = importlib.import_module(f'benchmarks.{suite}').rows()
  print(table(rows))
  result = {
    'date': datetime.date.today().isoformat(),
    'versions': versions(),
    'hardware': machine,
    'rows': rows,
  }
  path = pathlib.Path(__file__).with_name('results') / f'{suite}.jsonl'
  path.parent.mkdir(exist_ok=True)
  with path.open('a') as file:
    file.write(json.dumps(result) + '\n')


if __name__ == '__main__':
  main()
