"""The frame of the benchmarks, around a suite that measures nothing."""

import json
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import memory
from diffusion_distillation.networks.denoiser import Denoiser
from diffusion_distillation.training.settings import teacher_config


def test_a_run_prints_a_table_and_adds_a_line(tmp_path, monkeypatch, capsys):
  suite = types.ModuleType('benchmarks.nothing')
  suite.rows = lambda: [
    {'what': 'one', 'images/s': 1234.56},
    {'what': 'a dozen', 'images/s': 12},
  ]
  monkeypatch.setitem(sys.modules, 'benchmarks.nothing', suite)
  monkeypatch.setattr(benchmarks, 'SUITES', ('nothing',))
  monkeypatch.setattr(benchmarks, '__file__', str(tmp_path / '__main__.py'))
  monkeypatch.setattr(sys, 'argv', ['benchmarks', '--suite=nothing'])
  for _ in range(2):
    benchmarks.main()
  assert capsys.readouterr().out.splitlines()[:3] == [
    'what     images/s',
    'one      1,234.6',
    'a dozen  12',
  ]
  lines = (tmp_path / 'results' / 'nothing.jsonl').read_text().splitlines()
  assert len(lines) == 2
  result = json.loads(lines[1])
  assert result['rows'] == suite.rows()
  assert 'jax' in result['versions'] and result['hardware']['cores'] >= 1


def test_an_unknown_suite_names_the_known_ones(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['benchmarks', '--suite=fly'])
  with pytest.raises(SystemExit):
    benchmarks.main()
  assert 'input' in capsys.readouterr().err


class Wave(nn.Module):
  """Two layers of which it is known by hand what a gradient needs."""

  remat: bool = False
  dropout: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x, logsnr, y, *, train, dropout_keys=None):
    return nn.Dense(1)(jnp.sin(nn.Dense(8)(x)))


def test_memory_of_an_image_is_what_the_gradient_needs():
  # Of each of 64 pixels: the input, and sine and cosine of 8 channels.
  denoiser = Denoiser(Wave(), 'x', (8, 8, 1))
  assert memory.image_bytes(denoiser) == 64 * (1 + 8 + 8) * 4


def test_memory_of_a_device(config, denoiser):
  count = sum(leaf.size for leaf in jax.tree.leaves(denoiser.param_shapes()))
  # Parameters, two moments, gradient, and teacher or average, beside the
  # numbers of updates: made, to be made, and the optimizer's own.
  for part in (config, teacher_config(config)):
    assert memory.state_bytes(denoiser, part) == 5 * 4 * count + 3 * 4

  rows = memory.rows(types.SimpleNamespace(config=config, denoiser=denoiser))
  by_kind = {(row['dtype'], row['remat']): row for row in rows}
  assert len(by_kind) == len(rows) == 4
  for row in rows:
    images, used = row['images in 16 GB'], row['state, MB']
    free = 0.9 * 16e3 - used - images * row['MB per image']
    assert 0 <= free < row['MB per image']
  plain, again = (by_kind['float32', remat] for remat in (False, True))
  assert again['MB per image'] < plain['MB per image'] / 2
  half = by_kind['bfloat16', False]
  assert plain['MB per image'] / 2 < half['MB per image']
  assert half['MB per image'] < plain['MB per image']
