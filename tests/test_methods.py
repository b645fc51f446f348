"""Several ways to distill one teacher, from the command to the report."""

import json
import shutil
import textwrap

import jax
import numpy as np
import pytest

from diffusion_distillation import checkpoints
from diffusion_distillation.data import digits
from diffusion_distillation.generation.pairs import pairs_of
from tests.test_main import killed, run

CONFIG = textwrap.dedent(
  """
  from diffusion_distillation.commands import config_file

  def get_config():
    config = config_file.load('tests/toy_distill.py')
    config.eval.update(samplers=('ddim',), solution_num_steps=8, num_samples=8)
    config.distillation.steps_per_iter = 2
    config.distillation.methods.pairs = {
      'distillation': {'objective': 'one_shot:pairs=20'}
    }
    config.distillation.methods.consistency = {
      'distillation': {
        'objective': 'consistency_distillation:levels=8,target_decay=0.9'
      },
      'train': {'ema_decay': 0.9, 'checkpoint_every_secs': 0},
    }
    return config
  """
)
# The same with a single way.
FIRST = CONFIG.replace(
  'return config', 'del config.distillation.methods.pairs\n  return config'
)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('methods')
  (folder / 'ways.py').write_text(CONFIG)
  where = f'--workdir={folder / "run"}'
  assert run(f'--config={folder / "ways.py"}', where) is None
  return folder / 'run'


def test_every_way_is_in_the_report(workdir):
  report = json.loads((workdir / 'report' / 'report.json').read_text())
  found = {(row['network'], row['sampler']): [] for row in report['rows']}
  for row in report['rows']:
    found[row['network'], row['sampler']].append(row['num_steps'])
  assert found == {
    ('pairs', 'ddim'): [1],
    ('consistency', 'consistency'): [1, 2, 4, 8],
    ('teacher', 'ddim'): [4, 1, 2, 8],
  }
  for row in report['rows']:
    # One evaluation draws no noise, so it can be compared with the solution.
    compared = row['network'] == 'teacher' or row['num_steps'] == 1
    assert ('teacher_rmse' in row) == compared
    assert (row['training_flops'] > 0) == (row['network'] != 'teacher')
  page = (workdir / 'report' / 'index.html').read_text()
  assert 'Ways to few steps' in page
  assert '1 step (pairs): ' in page or '1 step (consistency): ' in page
  assert (workdir / 'report' / 'fid_vs_training.png').exists()


def test_pairs_are_kept_with_their_seeds(workdir):
  drawn = np.concatenate(
    [np.load(p)['images'] for p in sorted((workdir / 'pairs/20').iterdir())]
  )
  assert drawn.shape == (20, 8, 8, 1)
  dataset = pairs_of(digits.load(), drawn)
  example = dataset.train[7]
  np.testing.assert_array_equal(example['image'], drawn[7])
  # Samples are measured from the seed 0 on.
  assert example['seed'] == 2**31 + 7


def test_a_way_resumes_and_others_are_added_to_the_same_bits(workdir, tmp_path):
  where = f'--workdir={tmp_path / "run"}'
  config = tmp_path / 'ways.py'
  config.write_text(FIRST)
  with killed('consistency_00001', 1):
    run(f'--config={config}', where)
  assert run(f'--config={config}', where) is None
  config.write_text(CONFIG)
  assert run(f'--config={config}', where) is None
  for name in ('teacher', 'consistency_00001', 'pairs_00001'):
    want, got = (
      checkpoints.load(d / name) for d in (workdir, tmp_path / 'run')
    )
    jax.tree.map(np.testing.assert_array_equal, want.weights, got.weights)


def test_a_method_that_comes_back_is_the_same(workdir, tmp_path):
  path = shutil.copytree(workdir, tmp_path / 'run')
  config = tmp_path / 'ways.py'
  command = f'--config={config}', f'--workdir={path}'
  config.write_text(FIRST)
  assert run(*command) is None
  report = json.loads((path / 'report' / 'report.json').read_text())
  assert 'pairs' not in {row['network'] for row in report['rows']}
  assert 'pairs_00001' not in (path / 'report' / 'index.html').read_text()
  config.write_text(CONFIG.replace('one_shot:pairs=20', 'one_shot:pairs=12'))
  said = run(*command)
  assert 'pairs_00001 was trained with another config' in said
  assert 'pairs=20 there, one_shot:pairs=12 here' in said
  config.write_text(CONFIG)
  assert run(*command) is None


def test_seeds_are_averaged(tmp_path, capsys):
  flags = (
    '--config=tests/toy_distill.py',
    f'--workdir={tmp_path}',
    '--config.eval.seeds=2',
    '--config.seed=5',
    '--config.distillation.start_num_steps=2',
    '--config.eval.samplers=("ddim",)',
    '--config.eval.num_samples=8',
  )
  assert run(*flags) is None
  single = [
    json.loads((tmp_path / f'seed_{seed}/report/report.json').read_text())
    for seed in (5, 6)
  ]
  mean = json.loads((tmp_path / 'report' / 'report.json').read_text())
  assert mean['num_runs'] == 2
  for one, other, row in zip(
    *(report['rows'] for report in (*single, mean)), strict=True
  ):
    pair = [each['frechet_distance'] for each in (one, other)]
    assert row['frechet_distance'] == pytest.approx(np.mean(pair))
    assert row['frechet_distance_error'] == pytest.approx(np.std(pair, ddof=1))
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert 'Figures are means of 2 training seeds' in page
  # Nothing is done again.
  capsys.readouterr()
  assert run(*flags, '--mode=evaluate') is None
  assert 'evaluate 1/' not in capsys.readouterr().err
  for wrong in ('0', 'None'):
    said = run(*flags, f'--config.eval.seeds={wrong}')
    assert f'eval.seeds must be an integer of at least 1, got {wrong}' in said
  # Runs that were last measured in different ways have no common report.
  other = '--config.eval.num_samples=6'
  one = ('--config.eval.seeds=1', f'--workdir={tmp_path / "seed_5"}')
  assert run(flags[0], *flags[2:], other, *one, '--mode=evaluate') is None
  assert 'not measured in the same way' in run(*flags, '--mode=report')
  assert run(*flags, '--mode=evaluate') is None
  # A run of a single seed is no folder for several.
  one_run = f'--workdir={tmp_path / "seed_5"}'
  assert 'holds a run of one seed' in run(*flags[:1], one_run, *flags[2:])
