import json

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.report import page, paper, plots, report
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
    report.checkpoints, 'read_card', lambda path, config=None: card
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
  rows = plan_rows(config, tmp_path)
  assert [row.name for row in rows] == [
    'distilled_00002',
    'distilled_00001',
    'distilled_ancestral_00002',
    'distilled_ancestral_00001',
    'ddim_00016',
    'ddim_00003',
  ]
  assert [row.method for row in rows] == [
    *('ddim', 'ddim', 'ancestral', 'ancestral'),
    *('ddim', 'ddim'),
  ]
  assert rows[3].path == tmp_path / 'student_00001'
  assert rows[4].path == tmp_path / 'teacher'


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


def measure(config, workdir, protocol, distances):
  """Writes figures of the run's first rows."""
  measured = Measured(workdir)
  for row, distance in zip(plan_rows(config, workdir), distances, strict=False):
    figures = {
      'frechet_distance': distance,
      'seconds': 1.5,
      'floor': 3.25,
      'train_classifier_score': None,
    }
    measured.add(row, protocol, figures)


def test_ratios_are_to_the_teacher_at_its_own_steps(tmp_path):
  config = tiny_config()
  measure(config, tmp_path, PROTOCOL, [6.0, 8.0, 4.0, 5.0])
  rows = report.make_report(config, tmp_path)['rows']
  assert [row.get('ratio') for row in rows] == [
    *(1.5, 2.0, 1.0, 1.25),
    *[None] * 4,
  ]
  assert rows[-1] == {'sampler': 'ancestral', 'num_steps': 1}


def test_the_paper_s_figures_stand_beside_its_data_sets_alone(tmp_path):
  config = tiny_config()
  measure(config, tmp_path, PROTOCOL, [6.0, 8.0])
  made = report.make_report(config, tmp_path)
  # Table 2 of the paper: 9.12 in one step, 4.51 in two.
  assert [row.get('paper') for row in made['rows'][:3]] == [4.51, 9.12, None]
  assert 'Not comparable' not in paper.note(PROTOCOL)
  assert 'Not comparable' in paper.note({**PROTOCOL, 'num_samples': 5000})
  for other in ({'dataset': 'digits'}, {'label': 'Frechet distance'}):
    assert paper.figures({**PROTOCOL, **other}) == {}
    assert paper.note({**PROTOCOL, **other}) == ''


def test_figures_of_another_protocol_are_not_mixed_in(tmp_path):
  config, other = tiny_config(), {**PROTOCOL, 'num_samples': 10}
  measure(config, tmp_path, PROTOCOL, [6.0, 8.0])
  measure(config, tmp_path, other, [7.0])
  newest = report.make_report(config, tmp_path)
  assert newest['metric'] == other and newest['floor'] == 3.25
  assert newest['rows'][0]['frechet_distance'] == 7
  assert 'frechet_distance' not in newest['rows'][1]
  asked = report.make_report(config, tmp_path, PROTOCOL)
  assert [row['frechet_distance'] for row in asked['rows'][:2]] == [6, 8]


def test_a_report_without_figures_has_pictures_and_trainings(tmp_path):
  config = tiny_config()
  made = report.make_report(config, tmp_path)
  assert made['metric'] is None and made['floor'] is None
  text = page.make_page(config, made, [], [])
  assert 'Nothing is measured' in text
  assert '<td>2 steps</td><td>3</td><td>0:01:00</td>' in text
  assert '<img' not in text and 'None' not in text.split('<h2>Settings')[0]


def test_the_page_and_the_curve_show_the_paper_s_figures(tmp_path):
  config = changed(student_samplers=('ddim', 'ancestral'))
  measure(config, tmp_path, PROTOCOL, [6.0, 8.0, 7.0, 9.0, 4.0, 5.0])
  made = json.loads(json.dumps(report.make_report(config, tmp_path)))
  curve = tmp_path / 'curve.png'
  plots.plot_fid_vs_steps(made, curve)
  Image.open(curve).verify()
  text = page.make_page(config, made, [curve], [])
  assert '<th>FID in the paper</th>' in text and '<td>9.12</td>' in text
  assert 'read off its Figure 4' in text and text.count('<img') == 1
  assert 'distilled_ancestral' in text


def test_protocols_that_say_too_little_do_not_count(tmp_path):
  measured = Measured(tmp_path)
  row = plan_rows(tiny_config(), tmp_path)[0]
  measured.add(row, PROTOCOL, {'frechet_distance': 1.0})
  for little in (None, 'FID', {'label': 'FID'}):
    measured.add(row, little, {'frechet_distance': 2.0})
  assert measured.newest_protocol() == PROTOCOL


def test_a_picture_is_known_by_what_it_shows(tmp_path):
  path, images = tmp_path / 'a.png', np.zeros((2, 8, 8, 1), np.uint8)
  assert not plots.shows(path, 'updates: 3')
  plots.save_grid(images, path, 'updates: 3')
  assert plots.shows(path, 'updates: 3')
  assert not plots.shows(path, 'updates: 4')
  good = path.read_bytes()
  for bad in (good[:20], good[: len(good) // 2], good[:60] + b'x' + good[61:]):
    path.write_bytes(bad)
    assert not plots.shows(path, 'updates: 3')


def test_figures_that_are_no_numbers_count_as_not_measured(tmp_path):
  measured, row = Measured(tmp_path), plan_rows(tiny_config(), tmp_path)[0]
  measured.add(row, PROTOCOL, {'frechet_distance': 1.0, 'floor': None})
  for figures in ({'frechet_distance': 'x'}, {'floor': 'x'}):
    measured.add(row, PROTOCOL, figures)
  assert measured.find(row, PROTOCOL)['frechet_distance'] == 1.0
