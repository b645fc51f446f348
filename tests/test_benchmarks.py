"""The benchmarks: their command line, their arithmetic, and tiny real runs."""

import dataclasses
import importlib.util
import json
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from benchmarks import __main__ as benchmarks
from benchmarks import (
  checkpoint,
  hlo,
  inversion,
  memory,
  parallel,
  rounds,
  sampler,
  steps,
  subject,
  taps,
  timing,
  versus_torch,
)
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.networks.denoiser import Denoiser
from diffusion_distillation.runtime import devices
from diffusion_distillation.runtime.errors import UserError
from tests.checkpoints import toy as toy_checkpoint
from tests.conftest import TOY


@pytest.fixture
def toy():
  """The Subject of a config that compiles in a second."""
  return subject.read(str(TOY), (8,))


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
  flags += ['--set=model.args.remat=True', '--set', 'model.args.norm=fused']
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
  assert result['set'] == {'model.args.remat': True, 'model.args.norm': 'fused'}
  assert 'jax' in result['versions']
  assert result['hardware']['cores'] >= 1
  assert result['hardware']['load_average'] >= 0


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--suite=fly'], 'input'),
    (['--suite=steps', '--config=configs/nothing.py'], 'digits_distill'),
    (['--suite=steps', '--config=digits_base'], 'a teacher and students'),
    (['--suite=steps', '--set=model.args.nrom=1'], 'nrom=1: the config has no'),
    (['--suite=steps', '--set=train.substeps=a'], 'or one of another type'),
    (['--suite=steps', '--set=model.args.norm=batch'], 'known: flax, fused'),
  ],
)
def test_wrong_options_say_what_is_known(monkeypatch, capsys, flags, message):
  monkeypatch.setattr(sys, 'argv', ['benchmarks', *flags])
  with pytest.raises(SystemExit) as error:
    benchmarks.main()
  assert message in f'{error.value} {capsys.readouterr().err}'


def test_every_suite_is_a_module():
  for name in benchmarks.SUITES:
    assert callable(importlib.import_module(f'benchmarks.{name}').rows)


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


def test_steps_count_their_arithmetic(monkeypatch, toy):
  times = {'train': [0.1] * 3, 'distill': [0.16, 0.17, 0.3], 'matrix': [1e-3]}
  monkeypatch.setattr(timing, 'interleaved', lambda functions, profile: times)
  # A call makes two updates.
  monkeypatch.setattr(devices, 'updates_per_call', lambda *args: 2)
  measured = types.SimpleNamespace(
    config=toy.config,
    batch_sizes=(8,),
    profile=None,
    batch=toy.batch,
    flops=1e9,
    teacher_and_students=toy.teacher_and_students,
    updater=lambda training, batches: lambda: np.zeros(()),
  )
  train, distill = steps.rows(measured)
  # Three and five evaluations of two times eight images, 1 GFLOP each.
  assert train['TFLOP/s'] == pytest.approx(48e9 / 0.1 / 1e12)
  assert distill['TFLOP/s'] == pytest.approx(80e9 / 0.17 / 1e12)
  assert distill['images/s'] == pytest.approx(16 / 0.17)
  assert distill['ms/update'] == pytest.approx(85)
  assert train['distill/train'] == pytest.approx(1.7)
  # Matrices of 8192 x 8192 on each of the tests' four devices.
  assert train['matrix TFLOP/s'] == pytest.approx(4 * 2 * 8.192**3, rel=1e-6)
  assert train['MFU'] == pytest.approx(0.48 / train['matrix TFLOP/s'])


def test_steps_make_further_updates(toy):
  batches = devices.shard([toy.batch(8)])
  teacher, student = (
    toy.updater(training, batches) for training in toy.trainings
  )
  rates = [teacher()['learning_rate'][0, 0] for _ in range(2)]
  assert rates[1] == pytest.approx(2 * rates[0])  # in the warm-up
  assert np.isfinite(student()['loss']).all()


def test_samplers_are_compared_with_their_evaluations(toy, monkeypatch):
  def interleaved(functions, profile):
    del profile
    samples, images = functions['sample'](), functions['generate']()
    assert samples.shape == functions['evaluate']().shape == images.shape
    assert images.dtype == np.uint8
    return {name: [2.0] for name in functions}

  monkeypatch.setattr(timing, 'interleaved', interleaved)
  row = sampler._side_by_side(toy, 8, 'heun', num_steps=3)
  assert row['images/s'] == 4 and row['NFE'] == 5
  assert row['TFLOP/s'] == pytest.approx(5 * 8 * toy.flops / 1e12 / 2)


@pytest.fixture
def trained(tmp_path):
  """A Subject with a checkpoint."""
  folder = CheckpointFolder(tmp_path / 'teacher' / 'checkpoints')
  folder.save(toy_checkpoint.make_state(9), toy_checkpoint.card_at(9), {})
  return subject.read(str(TOY), (2,), checkpoint=str(tmp_path / 'teacher'))


def test_parallel_sampling_is_compared_with_ddim(trained, monkeypatch):
  def interleaved(functions, profile):
    del profile
    return {name: [2.0] for name in functions}

  monkeypatch.setattr(timing, 'interleaved', interleaved)
  for name, value in {'_STEPS': 4, '_WINDOW': 4, '_DEVICES': (1, 2)}.items():
    monkeypatch.setattr(parallel, name, value)
  rows = parallel.rows(trained)
  assert [(row['method'], row['devices']) for row in rows] == [
    (method, devices)
    for devices in (1, 2)
    for method in ('picard', 'anderson', 'window')
  ]
  for row in rows:
    assert row['in sequence'] <= 4 and row['difference'] < 0.1
    assert row['evaluations/DDIM'] == row['in sequence']


def test_the_search_for_noise_is_timed(trained, monkeypatch):
  for name, value in {'_STEPS': 2, '_UPDATES': 3, '_SHOWN': (0, 2)}.items():
    monkeypatch.setattr(inversion, name, value)
  images = types.SimpleNamespace(
    heldout=subject.random_examples(2, (4, 4, 1), 3)
  )
  measured = types.SimpleNamespace(
    trained=trained.trained, dataset=images, batch_sizes=(2,)
  )
  rows = inversion.rows(measured)
  assert [row['gradient'] for row in rows] == ['backprop'] * 2 + ['deq'] * 2
  for first, last in (rows[:2], rows[2:]):
    assert last['loss per image'] != first['loss per image'] > 0
    assert last['seconds'] > first['seconds'] > 0


def test_suites_of_trained_weights_need_them(toy):
  with pytest.raises(UserError, match='needs --checkpoint=PATH'):
    parallel.rows(toy)


def test_rounds_of_a_real_run_compile_nothing(toy, monkeypatch):
  monkeypatch.setattr(rounds, '_UPDATES', 3)
  row = rounds._row('here', toy, 2, None)
  assert row['gaps'] == 1
  assert row['compilations/gap'] == 0 < taps.compilations(0, np.inf)


def test_the_original_s_step_is_compiled_for_each_step_count():
  compiled = []

  def compile_step(step, in_axes):
    compiled.append(in_axes)
    return step

  def distill_step(state, teacher_params, num_steps, batch, key):
    return state + teacher_params * num_steps

  step = rounds._constants(compile_step, distill_step, None)
  teacher = np.full(jax.local_device_count(), 2.0)
  assert [step(1.0, teacher, n, None, None) for n in (4, 2, 2)] == [9, 5, 5]
  assert compiled == [(0, 0, None)] * 2


def test_time_lost_between_rounds_is_beyond_an_update(monkeypatch, toy):
  # Updates of 20 ms; 100 ms are lost after each of three rounds, and each of
  # the next five updates takes 4 ms longer.
  n = rounds._UPDATES
  slow = np.where((np.arange(n) >= 1) & (np.arange(n) <= 5), 0.004, 0.0)
  durations = np.tile(0.020 + slow, 3)
  durations[::n] += 0.1
  clock = taps.Clock(calls={'distill_step': list(np.cumsum(durations))})
  monkeypatch.setattr(taps, 'train', lambda *args, **kwargs: clock)
  row = rounds._row('here', toy, 3, None)
  assert row['gaps'] == 2
  assert row['ms/update'] == pytest.approx(20)
  assert row['lost ms/round'] == pytest.approx(100)
  assert row['% of 500 updates'] == pytest.approx(100 * 0.1 / 10)
  assert row['slower by ms'] == pytest.approx(20)
  assert row['and that %'] == pytest.approx(100 * 0.02 / 10)
  assert row['compilations/gap'] == 0


def test_saves_of_a_real_loop_are_timed(toy, monkeypatch):
  monkeypatch.setattr(checkpoint, '_UPDATE', 0.01)
  toy.config.distillation.objective = None
  toy.config.teacher.train.update(num_updates=20, checkpoint_every_secs=0)
  row = checkpoint._row(toy.config, toy.dataset)
  params = jax.tree.leaves(toy.denoiser.param_shapes())
  assert row['parameters'] == sum(leaf.size for leaf in params)
  assert row['saves'] >= 1
  assert row['durable s'] > 0
  assert row['restore s'] > 0
  # The size includes the average and two moments, and is hardly compressed.
  assert row['MB'] > 0.9 * 4 * 4 * row['parameters'] / 1e6


def test_a_stall_is_what_the_loop_takes_longer_where_it_saves():
  # Calls return each second. The loop asks for the next batch 1 ms later, but
  # 51 and 81 ms after the second and the fifth, which it saves.
  ends = [float(n) for n in range(1, 8)]
  own = [0.001, 0.051, 0.001, 0.001, 0.081, 0.001]
  clock = taps.Clock(
    calls={'train_step': ends},
    waits=[(end + t, end + t) for end, t in zip(ends[:-1], own, strict=True)],
    saved={2: 2.5, 5: 5.25, 7: 9.0},
  )
  stalls, durable = checkpoint._saves(clock)
  assert stalls == pytest.approx([0.05, 0.08])
  assert durable == pytest.approx([0.5, 0.25])


class Wave(nn.Module):
  """Two layers whose gradient is known to need certain arrays."""

  remat: bool = False
  dropout: float = 0.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x, logsnr, condition, *, train, dropout_keys=None):
    return nn.Dense(1)(jnp.sin(nn.Dense(8)(x)))


def test_memory_of_an_image_is_what_the_gradient_needs():
  # For each of 64 pixels: the input, and sine and cosine of 8 channels.
  denoiser = Denoiser(Wave(), 'x', (8, 8, 1))
  assert memory.image_bytes(denoiser) == 64 * (1 + 8 + 8) * 4


def test_memory_of_a_device_is_counted():
  digits = subject.read('digits_distill')
  digits.config.model.args.update(ch=8, ch_mult=(1,), attn_resolutions=(8,))
  params = jax.tree.leaves(digits.denoiser.param_shapes())
  count = sum(leaf.size for leaf in params)
  # Parameters, two moments, gradient, and teacher or average, beside three
  # numbers of updates: made, to be made, and the optimizer's own.
  for training in digits.trainings:
    found = memory.state_bytes(digits.denoiser, training)
    assert found == 5 * 4 * count + 3 * 4

  kinds = [('float32', False), ('float32', True), ('bfloat16', False)]
  rows = [memory._row(digits, *kind) for kind in kinds]
  for row in rows:
    images, used = row['images in 16 GB'], row['state, MB']
    free = 0.9 * 16e3 - used - images * row['MB per image']
    assert 0 <= free < row['MB per image']
  plain, again, half = (row['MB per image'] for row in rows)
  assert again < plain / 2
  assert plain / 2 < half < plain


def test_bytes_are_those_that_a_program_writes():
  def program(x):
    y = (x.astype(jnp.bfloat16) * 2).astype(jnp.float32) + 1
    return y @ y.T

  x = jax.ShapeDtypeStruct((512, 256), jnp.float32)
  found = hlo.written(jax.jit(program).lower(x).compile().as_text())
  # The product, and at least its argument; what is fused is not written.
  assert found['f32, MB'] >= (512 * 512 + 512 * 256) * 4 / 1e6
  text = """
%fused (p: bf16[1000]) -> f32[1000] {
  ROOT %c = f32[1000]{0} convert(bf16[1000]{0} %p)
}
%wrapped_transpose_computation (p: f32[10,100]) -> f32[100,10] {
  ROOT %t = f32[100,10]{1,0} transpose(f32[10,100]{1,0} %p), dimensions={1,0}
}
ENTRY %main (p: bf16[1000]) -> f32[100,10] {
  %p = bf16[1000]{0} parameter(0)
  %f = f32[1000]{0} fusion(%p), kind=kLoop, calls=%fused
  %n = bf16[1000]{0} convert(f32[1000]{0} %f)
  ROOT %w = f32[100,10]{1,0} fusion(%f), calls=%wrapped_transpose_computation
}
"""
  assert hlo.written(text) == pytest.approx(
    {
      'f32, MB': 0.008,
      'bf16, MB': 0.002,
      'convert, MB': 0.002,
      'transpose, MB': 0.004,
      'copy, MB': 0,
    }
  )


def test_both_steps_are_counted(toy):
  train, distill = hlo.rows(dataclasses.replace(toy, batch_sizes=(8,)))
  assert (train['step'], distill['step']) == ('train', 'distill')
  assert train['f32, MB'] > 0 and train['bf16, MB'] == 0


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--turns=1', 'needs PyTorch: pip install torch'),
    ('--config=digits_base', 'a teacher and students'),
    ('--set=model.args.remat=True', 'remat=False, got True'),
    ('--set=teacher.train.optimizer=momentum', "'adam', got 'momentum'"),
    ('--set=dataset.args.class_conditional=True', 'networks with classes'),
  ],
)
def test_what_pytorch_cannot_do_is_refused(monkeypatch, flag, message):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
  monkeypatch.setattr(sys, 'argv', ['versus_torch', flag])
  with pytest.raises(SystemExit, match=message):
    versus_torch.main()


def test_a_ratio_above_1_says_that_this_project_is_faster():
  asked = []

  def timer(name, seconds):
    return lambda what, calls: asked.append((name, calls)) or seconds

  timers = {'ours': 0.1, 'eager': 0.2, 'compiled': 0.05}
  timers = {name: timer(name, seconds) for name, seconds in timers.items()}
  row = versus_torch._side_by_side(timers, 'sampler', turns=2)
  assert (row['ours ms'], row['eager ms']) == (100, 200)
  assert row['speed / eager'] == pytest.approx(2)
  assert row['speed / compiled'] == pytest.approx(0.5)
  # About half a second in each turn, after a call that compiles and another.
  assert asked[-6:] == 2 * [('ours', 5), ('eager', 2), ('compiled', 10)]


def test_programs_that_differ_are_not_compared():
  ours = {'output': np.array([1.0, -2.0])}
  near = {'output': np.array([1.00001, -2.0])}
  assert versus_torch.difference('output', ours, near, exact=True) < 1e-5
  for bad in (1.0001, np.nan):
    with pytest.raises(UserError, match='output in PyTorch differs'):
      far = {'output': np.array([bad, -2.0])}
      versus_torch.difference('output', ours, far, exact=True)


def test_pytorch_has_the_same_network():
  torch = pytest.importorskip('torch')
  twin = importlib.import_module('benchmarks.torch_twin')
  settings = {'ch': 4, 'emb_ch': 8, 'num_heads': 2, 'num_res_blocks': 2}
  settings = {f'model.args.{key}': value for key, value in settings.items()}
  measured = subject.read('digits_distill', settings=settings)
  z = np.random.default_rng(0).standard_normal((2, 8, 8, 1), np.float32)
  logsnr = np.float32([-3, 4])
  want = measured.denoiser.bind(measured.params, None)(z, logsnr)
  network = twin.UNet(measured.config.model.to_dict(), (8, 8, 1))
  network.copy(traverse_util.flatten_dict(measured.params))
  with torch.no_grad():
    got = network.denoise(
      torch.tensor(z).permute(0, 3, 1, 2), torch.tensor(logsnr)
    )
  np.testing.assert_allclose(got.permute(0, 2, 3, 1), want, atol=1e-5)
