import dataclasses
import json
import shutil

import numpy as np
import pytest

from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.report import rows
from diffusion_distillation.report.rows import Measured, plan_rows
from diffusion_distillation.samplers import SAMPLERS, make_sampler
from diffusion_distillation.training.config import rounds
from tests.checkpoints.toy import CARD, card_at, make_state
from tests.conftest import tiny_config

PROTOCOL = {
  'name': 'frechet_distance',
  'label': 'FID',
  'dataset': 'cifar10',
  'features': 'inception',
  'num_samples': 50_000,
  'reference': 'cifar10 train, 50000 images',
  'heldout': 'cifar10 held out, 10000 images',
}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """A run folder whose trainings are all finished."""
  card = CARD.replace(updates=3, num_updates=3)
  monkeypatch.setattr(rows, 'read_card', lambda path, config=None: card)
  monkeypatch.setattr(rows, 'read_checksum', lambda path: path.name)
  write_run(tmp_path, tiny_config())
  return tmp_path


def write_run(path, config, teacher=None, checksum=None):
  run = {
    'config': config.to_dict(),
    'rounds': [dataclasses.asdict(each) for each in rounds(config)],
    'teacher': teacher,
    'teacher_checksum': checksum,
  }
  (path / 'config.json').write_text(json.dumps(run))


def names(config, workdir):
  return [row.name for row in plan_rows(config, workdir)]


def changed(**settings):
  config = tiny_config()
  config.eval.update(settings)
  return config


def test_rows_are_the_students_and_the_teacher_at_the_same_steps(workdir):
  assert names(tiny_config(), workdir) == [
    'student_00002_ddim_00002',
    'student_00001_ddim_00001',
    *(
      f'teacher_{sampler}_{n:05}'
      for sampler in ('ddim', 'ancestral')
      for n in (4, 2, 1)
    ),
  ]


def test_samplers_and_steps_of_the_config_are_planned(workdir):
  config = changed(
    samplers=('ddim',),
    student_samplers=('ddim', 'ancestral:gamma=0.3'),
    num_steps=(16, 3),
  )
  planned = plan_rows(config, workdir)
  assert [row.name for row in planned] == [
    'student_00002_ddim_00002',
    'student_00001_ddim_00001',
    'student_00002_ancestral-gamma-0.3_00002',
    'student_00001_ancestral-gamma-0.3_00001',
    'teacher_ddim_00016',
    'teacher_ddim_00003',
  ]
  assert planned[3].sampler == 'ancestral:gamma=0.3'
  assert planned[3].path == workdir / 'student_00001'
  assert planned[4].path == workdir / 'teacher'
  assert (planned[3].network, planned[4].network) == ('student', 'teacher')


def test_equal_rows_are_planned_once(workdir):
  config = changed(
    samplers=('ancestral', 'ancestral:gamma=1', 'ancestral:gamma=1.0'),
    student_samplers=(),
    num_steps=(4, 4),
  )
  assert names(config, workdir) == ['teacher_ancestral_00004']


def test_options_make_another_row(workdir):
  config = changed(samplers=('ancestral', 'ancestral:gamma=0'), num_steps=(4,))
  identities = [row.description for row in plan_rows(config, workdir)[-2:]]
  assert len(set(identities)) == 2
  measured = Measured(workdir)
  one, other = plan_rows(config, workdir)[-2:]
  measured.add(one, PROTOCOL, {'frechet_distance': 1.0})
  assert measured.find(one, PROTOCOL) and not measured.find(other, PROTOCOL)


def test_network_evaluations_are_those_of_the_sampler(workdir):
  config = changed(samplers=('heun',), student_samplers=(), num_steps=(4,))
  assert [row.nfe for row in plan_rows(config, workdir)] == [7]


def test_no_row_has_more_steps_than_the_maximum(workdir):
  config = changed(samplers=('ddim',), max_num_steps=2)
  assert names(config, workdir) == [
    'student_00002_ddim_00002',
    'student_00001_ddim_00001',
    'teacher_ddim_00002',
    'teacher_ddim_00001',
  ]


def test_other_samplers_than_the_teacher_s_own_are_limited_by_their_nfe(
  workdir,
):
  config = changed(
    samplers=('ddim', 'heun', 'dpmpp_2m'), num_steps=(9, 4, 5), max_nfe=7
  )
  assert names(config, workdir) == [
    'student_00002_ddim_00002',
    'student_00001_ddim_00001',
    *(f'teacher_ddim_0000{n}' for n in (9, 4, 5)),
    'teacher_heun_00004',
    *(f'teacher_dpmpp_2m_0000{n}' for n in (4, 5)),
  ]


def test_the_solution_is_the_teacher_s_by_ddim_in_many_steps(workdir):
  assert rows.solution_row(tiny_config(), workdir) is None
  limits = {'max_num_steps': 2, 'max_nfe': 1}
  config = changed(solution_num_steps=512, samplers=('heun',), **limits)
  row = rows.solution_row(config, workdir)
  assert row.name == 'teacher_ddim_00512' and row.checksum == 'teacher'
  assert config.eval.samplers == ('heun',)


def test_students_are_sampled_stochastically_in_twice_their_steps(workdir):
  # Its deterministic step spans two steps of the loop: a student's own step.
  config = changed(samplers=(), student_samplers=('stochastic',))
  assert names(config, workdir) == [
    'student_00002_stochastic_00004',
    'student_00001_stochastic_00002',
  ]


def test_a_teacher_from_elsewhere_need_not_be_there_and_may_move(workdir):
  config, old = tiny_config(), workdir / 'old'
  config.distillation.teacher_checkpoint_path = '/nowhere'
  write_run(workdir, config, teacher=str(old), checksum='12ab')

  def teachers():
    rows = plan_rows(config, workdir)
    return {
      (row.round, row.path, row.updates, row.checksum)
      for row in rows
      if row.network == 'teacher'
    }

  assert teachers() == {('teacher', '/nowhere', None, '12ab')}
  old.mkdir()
  assert teachers() == {('teacher', str(old), None, '12ab')}


def test_a_round_that_is_trained_again_is_measured_again(tmp_path):
  config = changed(samplers=(), student_samplers=('ddim',))
  write_run(tmp_path, config)

  def train(name, seed):
    folder = CheckpointFolder(tmp_path / name / 'checkpoints')
    state = make_state(seed).replace(step=np.int32(9))
    folder.save(state, card_at(9), {})

  for name in ('teacher', 'student_00002', 'student_00001'):
    train(name, 1)
  measured = Measured(tmp_path)
  for row in plan_rows(config, tmp_path):
    measured.add(row, PROTOCOL, {'frechet_distance': 1.0})

  def found():
    rows = plan_rows(config, tmp_path)
    return [measured.find(row, PROTOCOL) is not None for row in rows]

  assert found() == [True, True]
  shutil.rmtree(tmp_path / 'student_00001')
  train('student_00001', 2)
  assert found() == [True, False]


def test_the_teacher_is_the_first_round_whatever_its_name(workdir):
  config = changed(samplers=('ddim',), student_samplers=(), num_steps=(4,))
  path = workdir / 'config.json'
  run = json.loads(path.read_text())
  run['rounds'][0]['name'] = run['rounds'][1]['parent'] = 'base'
  path.write_text(json.dumps(run))
  (row,) = plan_rows(config, workdir)
  assert (row.network, row.round) == ('teacher', 'base')
  assert row.path == workdir / 'base'


def test_options_that_differ_by_a_sign_have_different_files(
  workdir, monkeypatch
):
  def factory(shift=0.5):
    return make_sampler('ddim')

  monkeypatch.setitem(SAMPLERS, 'toy', factory)
  spellings = [f'toy:shift={x}' for x in ('1', '-1', '1e20', '1e-20')]
  config = changed(samplers=spellings, student_samplers=(), num_steps=(4,))
  assert len(set(names(config, workdir))) == 4


def test_incomplete_protocols_are_ignored(workdir):
  measured = Measured(workdir)
  row = plan_rows(tiny_config(), workdir)[0]
  measured.add(row, PROTOCOL, {'frechet_distance': 1.0})
  for little in (None, 'FID', {'label': 'FID'}):
    measured.add(row, little, {'frechet_distance': 2.0})
  assert measured.newest_protocol() == PROTOCOL


def test_figures_that_are_not_numbers_count_as_not_measured(workdir):
  measured, row = Measured(workdir), plan_rows(tiny_config(), workdir)[0]
  measured.add(row, PROTOCOL, {'frechet_distance': 1.0, 'floor': None})
  for figures in ({'frechet_distance': 'x'}, {'floor': 'x'}):
    measured.add(row, PROTOCOL, figures)
  assert measured.find(row, PROTOCOL)['frechet_distance'] == 1.0
