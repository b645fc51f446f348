"""The frame of the benchmarks, and the arithmetic of their suites."""

import copy
import importlib
import json
import os
import pathlib
import subprocess
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import (
  checkpoint,
  memory,
  rounds,
  stand_ins,
  steps,
  subject,
  taps,
  timing,
)
from configs import digits_distill
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.networks.denoiser import Denoiser
from diffusion_distillation.training.config import teacher_config

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('base', 'original', 'paper')
)
# What a machine with a GPU may lack.
ABSENT = (
  'PIL',
  'chex',
  'grain',
  'ml_collections',
  'orbax',
  'sklearn',
  'tensorboardX',
  'tensorflow',
  'tensorflow_datasets',
)


def test_a_run_prints_a_table_and_adds_a_line(tmp_path, monkeypatch, capsys):
  suite = types.ModuleType('benchmarks.nothing')
  suite.rows = lambda subject: [
    {'what': 'one', 'images/s': 1234.56, 'MFU': 0.4321},
    {'what': f'of {subject.batch_sizes}', 'images/s': 12, 'MFU': None},
  ]
  monkeypatch.setitem(sys.modules, 'benchmarks.nothing', suite)
  monkeypatch.setattr(benchmarks, 'SUITES', ('nothing',))
  monkeypatch.setattr(benchmarks, '__file__', str(tmp_path / '__main__.py'))
  flags = ['--suite=nothing', '--batch_size=128,512', '--dtype=bfloat16']
  monkeypatch.setattr(sys, 'argv', ['benchmarks', *flags])
  for _ in range(2):
    benchmarks.main()
  assert capsys.readouterr().out.splitlines()[:3] == [
    'what           images/s  MFU',
    'one            1,234.6   0.432',
    'of (128, 512)  12        -',
  ]
  lines = (tmp_path / 'results' / 'nothing.jsonl').read_text().splitlines()
  assert len(lines) == 2
  result = json.loads(lines[1])
  assert result['rows'][0] == {
    'what': 'one',
    'images/s': 1234.56,
    'MFU': 0.4321,
  }
  assert result['config'] == 'configs/digits_distill.py'
  assert result['dtype'] == 'bfloat16'
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


def test_every_suite_is_a_module():
  for name in benchmarks.SUITES:
    assert callable(importlib.import_module(f'benchmarks.{name}').rows)


def test_versions_leave_out_what_is_not_installed(monkeypatch):
  monkeypatch.setattr(benchmarks, '_PACKAGES', ('jax', 'no-such-package'))
  assert benchmarks.versions().keys() == {'python', 'jax'}


def test_configs_are_the_same_without_ml_collections():
  code = """
import importlib, json, sys
from benchmarks import stand_ins
sys.modules['ml_collections'] = stand_ins.ml_collections()
configs = [importlib.import_module(f'configs.{n}') for n in sys.argv[1:]]
print(json.dumps([c.get_config().to_dict() for c in configs]))
"""
  plain = subprocess.run(
    [sys.executable, '-c', code, *CONFIGS],
    cwd=ROOT,
    capture_output=True,
    check=True,
    text=True,
  ).stdout
  ours = [
    importlib.import_module(f'configs.{name}').get_config().to_dict()
    for name in CONFIGS
  ]
  assert json.loads(plain) == json.loads(json.dumps(ours))


def test_the_plain_config_merges_sections_and_is_copied_whole():
  config = stand_ins.ConfigDict({'train': {'rate': 1, 'size': 2}, 'seed': 0})
  other = copy.deepcopy(config)
  other.update({'train': {'rate': 3}})
  other.train.size = 4
  del other.seed
  assert other.to_dict() == {'train': {'rate': 3, 'size': 4}}
  assert config.to_dict() == {'train': {'rate': 1, 'size': 2}, 'seed': 0}
  with pytest.raises(AttributeError, match='no_such'):
    _ = config.no_such


@pytest.mark.parametrize('name', CONFIGS)
def test_shapes_of_data_sets_are_those_of_their_loaders(name):
  dataset = importlib.import_module(f'configs.{name}').get_config().dataset
  loaded = load_dataset(dataset.name, dataset.args)
  expected = loaded.image_shape, loaded.num_classes
  assert subject.image_shape_and_classes(dataset) == expected


def test_turns_are_taken_and_the_ratio_is_of_each_turn(monkeypatch):
  now, order = [0.0], []

  def function(name, seconds):
    def call():
      order.append(name)
      now[0] += seconds * (1 + len(order))  # the machine slows down
      return np.zeros(())

    return call

  monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])
  times = timing.interleaved({'a': function('a', 2), 'b': function('b', 1)})
  turns = timing._FEWEST_TURNS
  assert order == ['a', 'a', 'b', 'b', *['a', 'b'] * turns, 'a', 'b']
  assert len(times['a']) == len(times['b']) == turns
  assert 1.5 < timing.ratio(times['a'], times['b']) < 2


def test_steps_count_their_arithmetic(monkeypatch):
  times = {'train': [0.1] * 3, 'distill': [0.16, 0.17, 0.3], 'matrix': [1e-3]}
  monkeypatch.setattr(timing, 'interleaved', lambda functions, profile: times)
  monkeypatch.setattr(steps, '_train', lambda *args: lambda: np.zeros(()))
  monkeypatch.setattr(steps, '_distill', steps._train)
  # Two updates in a call.
  monkeypatch.setattr(
    steps.replicas, 'updates_per_call', lambda train, count: 2
  )
  measured = types.SimpleNamespace(
    config=digits_distill.get_config(),
    batch_sizes=(8,),
    profile=None,
    batch=lambda size: {'image': np.zeros((size, 8, 8, 1), np.uint8)},
    flops=1e9,
  )
  train, distill = steps.rows(measured)
  # Three and five evaluations of two times eight images of a GFLOP.
  assert train['TFLOP/s'] == pytest.approx(48e9 / 0.1 / 1e12)
  assert distill['TFLOP/s'] == pytest.approx(80e9 / 0.17 / 1e12)
  assert distill['images/s'] == pytest.approx(16 / 0.17)
  assert distill['ms/update'] == pytest.approx(85)
  assert train['distill/train'] == pytest.approx(1.7)
  # Of matrices of 8192 x 8192 on each of the tests' four devices.
  assert train['matrix TFLOP/s'] == pytest.approx(4 * 2 * 8.192**3, rel=1e-6)
  assert train['MFU'] == pytest.approx(0.48 / train['matrix TFLOP/s'])


def test_time_lost_between_rounds_is_beyond_an_update(monkeypatch):
  config = digits_distill.get_config()
  config.distillation.start_num_steps = 8
  # Updates of 20 ms; 100 ms are lost after each of three rounds, and each of
  # the next five updates takes 4 ms longer.
  n = rounds._UPDATES
  slow = np.where((np.arange(n) >= 1) & (np.arange(n) <= 5), 0.004, 0.0)
  durations = np.tile(0.020 + slow, 3)
  durations[::n] += 0.1
  clock = taps.Clock(calls={'distill_step': list(np.cumsum(durations))})
  monkeypatch.setattr(taps, 'train', lambda *args, **kwargs: clock)
  row = rounds._row('here', config, None)
  assert row['gaps'] == 2
  assert row['ms/update'] == pytest.approx(20)
  assert row['lost ms/round'] == pytest.approx(100)
  assert row['% of 500 updates'] == pytest.approx(100 * 0.1 / 10)
  assert row['slower by ms'] == pytest.approx(20)
  assert row['and that %'] == pytest.approx(100 * 0.02 / 10)
  assert row['compilations/gap'] == 0


def test_a_stall_is_what_the_loop_takes_longer_where_it_saves():
  # Calls that return each second; the loop asks for the next batch 1 ms later,
  # but for 51 and 81 ms after the second and the fifth, which it saves.
  ends = [float(n) for n in range(1, 8)]
  own = [0.001, 0.051, 0.001, 0.001, 0.081, 0.001]
  waits = [(end + t, end + t) for end, t in zip(ends[:-1], own, strict=True)]
  seen = {2: 2.5, 5: 5.25, 7: 9.0}
  stalls, durable = checkpoint._saves(ends, waits, seen)
  assert stalls == pytest.approx([0.05, 0.08])
  assert durable == pytest.approx([0.5, 0.25])


def test_steps_and_sampler_need_jax_flax_and_optax_alone(tmp_path):
  config = tmp_path / 'tiny.py'
  config.write_text(
    'from configs import cifar10_distill\n'
    'def get_config():\n'
    '  config = cifar10_distill.get_config()\n'
    '  config.model.args.update(ch=4, emb_ch=4, ch_mult=(1,))\n'
    '  config.model.args.update(num_res_blocks=1, attn_resolutions=())\n'
    '  return config\n'
  )
  code = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
from benchmarks import stand_ins, timing
stand_ins.provide()
import functools, jax, numpy
from benchmarks import sampler, steps, subject
tiny = subject.read({str(config)!r}, (2,))
tiny.__dict__['params'] = jax.tree.map(  # which are not compiled so
  lambda leaf: numpy.full(leaf.shape, 0.1, leaf.dtype),
  tiny.denoiser.param_shapes(),
)
timing.interleaved = lambda functions, profile: {{
  name: [function().size] for name, function in functions.items()
}}
row = sampler._side_by_side(tiny, 2, 3)
assert row['generator ms'] == 1e3 * 2 * 32 * 32 * 3, row
pmap = jax.pmap  # the steps are traced, and not compiled
jax.pmap = lambda step, **axes: functools.partial(
  jax.eval_shape, pmap(step, **axes)
)
for make in (steps._train, steps._distill):
  update = make(tiny, steps.replicas.shard([tiny.batch(2)]))
  assert update()['loss'].shape == (1, 1)
"""
  # One device, and as little compilation as there can be.
  env = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  done = subprocess.run(
    [sys.executable, '-c', code],
    check=False,
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
