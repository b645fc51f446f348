import pytest

from diffusion_distillation.report import rows
from diffusion_distillation.report.rows import Measured, plan_rows
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


@pytest.fixture(autouse=True)
def trained(monkeypatch):
  """Every training is finished, wherever it is."""
  card = {
    'training': {
      'updates': 3,
      'num_updates': 3,
      'seconds': 60.0,
      'final_loss': 0.5,
      'compilations': 1,
    }
  }
  monkeypatch.setattr(
    rows.checkpoints, 'read_card', lambda path, config=None: card
  )


def names(config, workdir):
  return [row.name for row in plan_rows(config, workdir)]


def changed(**settings):
  config = tiny_config()
  config.eval.update(settings)
  return config


def test_rows_are_the_students_and_the_teacher_at_the_same_steps(tmp_path):
  assert names(tiny_config(), tmp_path) == [
    'distilled_00002',
    'distilled_00001',
    *(f'{s}_{n:05}' for s in ('ddim', 'ancestral') for n in (4, 2, 1)),
  ]


def test_rows_of_other_samplers_and_steps(tmp_path):
  config = changed(
    samplers=('ddim',),
    student_samplers=('ddim', 'ancestral'),
    num_steps=(16, 3),
  )
  planned = plan_rows(config, tmp_path)
  assert [row.name for row in planned] == [
    'distilled_00002',
    'distilled_00001',
    'distilled_ancestral_00002',
    'distilled_ancestral_00001',
    'ddim_00016',
    'ddim_00003',
  ]
  assert [row.method for row in planned] == [
    *('ddim', 'ddim', 'ancestral', 'ancestral'),
    *('ddim', 'ddim'),
  ]
  assert planned[3].path == tmp_path / 'student_00001'
  assert planned[4].path == tmp_path / 'teacher'


def test_no_row_has_more_steps_than_are_asked_for(tmp_path):
  config = changed(samplers=('ddim',), max_num_steps=2)
  assert names(config, tmp_path) == [
    'distilled_00002',
    'distilled_00001',
    'ddim_00002',
    'ddim_00001',
  ]


def test_students_are_sampled_stochastically_in_twice_their_steps(tmp_path):
  # Its deterministic step is two of the loop's: the student's own.
  config = changed(samplers=(), student_samplers=('stochastic',))
  assert names(config, tmp_path) == [
    'distilled_stochastic_00004',
    'distilled_stochastic_00002',
  ]


def test_protocols_that_say_too_little_do_not_count(tmp_path):
  measured = Measured(tmp_path)
  row = plan_rows(tiny_config(), tmp_path)[0]
  measured.add(row, PROTOCOL, {'frechet_distance': 1.0})
  for little in (None, 'FID', {'label': 'FID'}):
    measured.add(row, little, {'frechet_distance': 2.0})
  assert measured.newest_protocol() == PROTOCOL


def test_figures_that_are_no_numbers_count_as_not_measured(tmp_path):
  measured, row = Measured(tmp_path), plan_rows(tiny_config(), tmp_path)[0]
  measured.add(row, PROTOCOL, {'frechet_distance': 1.0, 'floor': None})
  for figures in ({'frechet_distance': 'x'}, {'floor': 'x'}):
    measured.add(row, PROTOCOL, figures)
  assert measured.find(row, PROTOCOL)['frechet_distance'] == 1.0
