"""The studies: what they train, and what they make of the reports."""

import json
import subprocess

import pytest

from benchmarks import study
from configs import digits_base, digits_distill
from diffusion_distillation.commands import cli


@pytest.fixture
def commands(monkeypatch):
  """Records the command lines of trainings, which fail for 'eps'."""
  found = []

  def pretend(command, **_):
    mode, values = cli.parse(command[1:])
    assert mode == 'train'
    config, folder = values['config'], command[3].partition('=')[2]
    found.append(config)
    is_wrong = config.model.mean_type == 'eps'
    row = {'frechet_distance': float(config.seed), 'sampler': 'ddim'}
    students = [
      row | {'network': 'student', 'num_steps': n} for n in (8, 4, 2, 1)
    ]
    teacher = [
      row | {'network': 'teacher', 'num_steps': n, 'sampler': sampler}
      for n in (8, 64)
      for sampler in ('ddim', 'ancestral')
    ]
    path = study.pathlib.Path(folder) / 'report' / 'report.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = dict.fromkeys(('versions', 'hardware', 'date', 'metric', 'floor'))
    report = {'rows': teacher + students, **facts}
    report['failure'] = 'not finite' if is_wrong else None
    path.write_text(json.dumps(report))
    return subprocess.CompletedProcess(command, int(is_wrong))

  monkeypatch.setattr(study.subprocess, 'run', pretend)
  return found


def test_table_1_has_all_outputs_and_weightings(commands, tmp_path):
  found = study.run('table1', 'digits', [3], tmp_path)
  pairs = {(c.model.mean_type, c.model.mean_loss_weight_type) for c in commands}
  assert len(pairs) == len(commands) == 12
  assert found['columns'] == ['stochastic sampler', 'DDIM']
  for row in found['rows']:
    value = None if row['variant'].startswith('eps') else 3.0
    assert [row['DDIM'], row['stochastic sampler']] == [value, value]
  default = digits_base.get_config()
  assert {c.train.num_updates for c in commands} == {default.train.num_updates}
  # A failed training is not repeated.
  study.run('table1', 'digits', [3], tmp_path)
  assert len(commands) == 12 + 9


def test_students_share_a_teacher_and_differ_in_one_key(commands, tmp_path):
  found = study.run('updates', 'digits', [0, 1], tmp_path)
  assert len(found['rows']) == 8
  assert {row['1 step'] for row in found['rows'] if row['seed'] == 1} == {1.0}
  rounds = [c for c in commands if c.distillation.objective]
  paths = {c.distillation.teacher_checkpoint_path for c in rounds}
  assert len(paths) == 2 and all(path.endswith('/teacher') for path in paths)
  count = digits_distill.get_config().distillation.steps_per_iter
  assert sorted({c.distillation.steps_per_iter for c in rounds}) == [
    *(count // share for share in (8, 4, 2, 1))
  ]
  # The first variant of each study is the config itself.
  folders = {path.name for path in tmp_path.iterdir()}
  study.run('start', 'digits', [0], tmp_path)
  new = {path.name for path in tmp_path.iterdir()} - folders
  assert new == {
    f'digits_distill_start_num_steps={n}_seed=0' for n in (8, 16, 32)
  }
