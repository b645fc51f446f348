import io
import json

import numpy as np
import pytest
from PIL import Image

from diffusion_distillation.report import labels, paper, plots
from diffusion_distillation.report import report as reports
from tests.report import examples
from tests.report.test_result import row


def test_relative_errors_of_a_ratio_add_in_quadrature():
  # 3 and 4 per cent make 5 per cent.
  teacher = row('teacher', 64, 2.0, 0.08)
  student, same = reports.compare([row('student', 1, 3.0, 0.09), teacher], None)
  assert student['ratio'] == 1.5
  assert student['ratio_error'] == pytest.approx(1.5 * 0.05)
  # The reference is exactly as good as itself.
  assert same['ratio'] == 1 and 'ratio_error' not in same


def test_rows_that_are_not_measured_have_no_ratio():
  student, teacher = row('student', 1, 3.0), row('teacher', 64, 2.0, 0.1)
  assert reports.compare([student, row('teacher', 64)], None)[0] == student
  compared = reports.compare([student, teacher, row('student', 2)], None)
  assert compared[0]['ratio'] == 1.5 and 'ratio_error' not in compared[0]
  assert compared[2] == row('student', 2)


def test_compilations_are_counted_by_compiled_step():
  assert examples.digits()['compilations'] == {
    'train_step': 1,
    'distill_step': 1,
  }
  # A teacher from elsewhere was not trained here.
  assert examples.imagenet()['compilations']['train_step'] == 0


def test_a_report_has_the_paper_s_figures_beside_its_own():
  rows = examples.imagenet()['rows']
  found = {
    (r['network'], r['sampler'].partition(':')[0], r['num_steps']): r['paper']
    for r in rows
    if 'paper' in r
  }
  # These are from Figure 4 of the paper, which ends at an FID of 20.
  assert found['student', 'ddim', 1] == 16.1
  assert found['teacher', 'ddim', 512] == 2.65
  assert found['teacher', 'ancestral', 512] == 2.14
  assert ('teacher', 'ddim', 4) not in found
  assert not any('paper' in r for r in examples.digits()['rows'])


def test_the_paper_compares_with_the_same_protocol_alone():
  metric = examples.imagenet()['metric']
  assert 'not comparable' not in paper.note(metric)
  for other in ({'num_samples': 5000}, {'reference': 'mine.npz'}):
    assert 'not comparable' in paper.note(metric | other)
  for other in ({'dataset': 'digits'}, {'label': 'Frechet distance'}):
    assert paper.curves(metric | other) == {}
    assert paper.note(metric | other) == ''
  assert paper.note(None) == ''
  assert 'Table 2' in paper.note(metric | {'dataset': 'cifar10'})


def test_write_report_writes_its_files(tmp_path):
  options = {'row_images': {}, 'real_images': None, 'entries': []}
  report, folder = examples.imagenet(), tmp_path / 'report'
  reports.write_report(report, folder, **options)
  assert json.loads((folder / 'report.json').read_text()) == report
  for name in ('fid_vs_steps.png', 'fid_vs_nfe.png', 'fid_vs_seconds.png'):
    with Image.open(folder / name) as image:
      image.verify()
  # Curves of figures that no longer exist are removed.
  reports.write_report(examples.unmeasured(), folder, **options)
  assert sorted(p.name for p in folder.iterdir()) == [
    'index.html',
    'report.json',
  ]


def test_the_summary_is_aligned_and_has_errors_and_ratios():
  lines = reports.summary(examples.digits()).splitlines()
  heading, *rows = lines[:27]
  assert len({len(line) for line in [heading, *rows]}) == 1
  assert rows[0].split('  ')[0] == 'student, DDIM'
  assert '1.46 ± 0.06' in rows[0] and '1.23 ± 0.07' in rows[0]
  assert lines[27].startswith('1 step: Frechet distance 1.46')
  assert reports.summary(examples.unmeasured()) == ''


def test_samplers_are_named_for_readers():
  assert labels.sampler_label('ddim') == 'DDIM'
  for spelling, label in {
    'ancestral:gamma=0.3': 'ancestral, gamma 0.3',
    'unipc:order=3,variant=bh2': 'UniPC, order 3, variant bh2',
    'dpmpp_2m': 'DPM-Solver++(2M)',
    'dpm_3s:last_order=2': 'DPM-Solver(3S), last order 2',
    'dpmpp_3m:corrected=True@logsnr': (
      'DPM-Solver++(3M), corrected, logsnr grid'
    ),
    'ddim@karras:rho=5': 'DDIM, Karras levels, rho 5',
    'ddim@karras:sigma_min=0.1,sigma_max=20': (
      'DDIM, Karras levels, sigma 0.1 to 20'
    ),
    'some_new:thing=1': 'some new, thing 1',
  }.items():
    assert labels.sampler_label(spelling) == label
  assert labels.steps(1) == '1 step' and labels.steps(8192) == '8,192 steps'


def test_rows_are_grouped_by_sampler_students_first():
  groups = labels.group(
    [row('teacher', 4), row('teacher', 2), row('student', 2)]
  )
  assert {k: [r['num_steps'] for r in rows] for k, rows in groups.items()} == {
    'student, DDIM': [2],
    'teacher, DDIM': [2, 4],
  }
  assert next(iter(groups)) == 'student, DDIM'


def test_students_of_the_same_steps_are_told_apart_by_their_round():
  one, other = row('student', 2), row('student', 2, round='student_00008')
  assert list(labels.group([one, other])) == [
    'student_00002, DDIM',
    'student_00008, DDIM',
  ]


def test_numbers_of_a_column_share_their_decimals():
  assert labels.numbers([101.0, 0.956]) == ['101.00', '0.96']
  assert labels.numbers([0.0123, None, -2.0]) == [
    *('0.012', '', '\N{MINUS SIGN}2.000')
  ]
  assert labels.numbers([3.0], errors=[0.004]) == ['3.000 ± 0.004']
  assert labels.numbers([4, 1024], places=0) == ['4', '1,024']
  assert labels.numbers([1e-12]) == ['0.000000']
  assert [labels.factor(r) for r in (0.81, 1.04, 1.23, 84.9)] == [
    *('0.81', '1.04', '1.2', '85')
  ]


def luminance(color):
  """Returns the relative luminance of '#rrggbb' as WCAG 2 defines it."""
  parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  linear = np.where(
    parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
  )
  return linear @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize('color', plots.COLORS)
def test_curves_can_be_seen_on_light_and_dark_pages(color):
  for background in ('#ffffff', '#14171b'):
    pair = sorted([luminance(color), luminance(background)])
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def test_curves_are_told_apart_by_their_markers_and_colors():
  looks = {
    (curve.color, curve.marker)
    for curve in plots.quality_curves(examples.imagenet())
  }
  assert len(looks) == 8


def test_a_curve_against_nfe_is_drawn_where_it_differs_from_steps():
  assert plots.plot_quality(examples.digits(), 'nfe') is None
  assert plots.plot_quality(examples.unmeasured()) is None
  axes = plots.plot_quality(examples.imagenet(), 'nfe').axes[0]
  heun = next(
    line for line in axes.lines if line.get_label() == 'teacher, Heun'
  )
  assert list(heun.get_xdata()) == [3, 7, 15, 31, 63, 127]


def test_a_curve_against_seconds_has_the_rows_of_known_speed():
  report = examples.digits()
  axes = plots.plot_quality(report, 'seconds').axes[0]
  student = axes.lines[0]
  np.testing.assert_allclose(student.get_xdata()[0], 1 / 6400)
  for each in report['rows']:
    del each['images_per_second']
  assert plots.plot_quality(report, 'seconds') is None


def test_the_pareto_front_is_drawn_and_others_of_many_curves_are_faint():
  def looks(report, x):
    axes = plots.plot_quality(report, x).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    faint = {name for name, line in drawn.items() if line.get_alpha() == 0.4}
    return drawn, faint

  drawn, faint = looks(examples.samplers(), 'nfe')
  front = drawn['Pareto front']
  assert np.all(np.diff(front.get_xdata()) > 0)
  assert np.all(np.diff(front.get_ydata()) < 0)
  assert 'teacher, Runge-Kutta 4' in faint and 'student, DDIM' not in faint
  # Steps are no cost where they differ from the NFE.
  drawn, also = looks(examples.samplers(), 'num_steps')
  assert 'Pareto front' not in drawn and also == faint
  drawn, faint = looks(examples.digits(), 'num_steps')
  assert 'Pareto front' in drawn and not faint


def test_curves_show_the_paper_s_figures_and_the_floor():
  axes = plots.plot_quality(examples.imagenet()).axes[0]
  drawn = [list(np.atleast_1d(line.get_ydata())) for line in axes.lines]
  assert [16.1, 7.36, 3.88, 2.95, 2.67, 2.6, 2.57, 2.57, 2.56, 2.56] in drawn
  assert [2.1, 2.1] in drawn


def test_a_curve_survives_figures_that_a_logarithm_does_not():
  report = examples.digits()
  odd = (0.0, 0.1), (1e-9, 5.0), (np.nan, np.nan), (np.inf, 1.0), (2.0, None)
  for figures, (distance, error) in zip(report['rows'], odd, strict=False):
    figures.update(frechet_distance=distance, frechet_distance_error=error)
  data = plots.to_png(plots.plot_quality(report))
  Image.open(io.BytesIO(data)).verify()


def test_a_loss_may_be_negative():
  entries = [{'stage': 'a', 'step': i, 'loss': 5.0 - i} for i in range(1, 11)]
  entries.insert(4, {'stage': 'a', 'step': 4, 'kid': 0.1})
  axes = plots.plot_training(entries, {'a': 4}, 'loss', 'loss').axes[0]
  assert axes.get_yscale() == 'linear'
  assert list(axes.lines[0].get_ydata()) == [5.0 - i for i in range(1, 11)]


def test_a_training_curve_is_averaged_to_few_points_round_after_round():
  entries = [
    {'stage': stage, 'step': step, 'loss': 2.0 + step % 2}
    for stage in ('a', 'b')
    for step in range(1, 1001)
  ]
  rounds = {'a': 4, 'absent': 3, 'b': 2}
  axes = plots.plot_training(entries, rounds, 'loss', 'loss').axes[0]
  first, second, _ = axes.lines
  assert len(first.get_xdata()) == 250
  np.testing.assert_allclose(first.get_ydata(), 2.5)
  assert second.get_xdata()[0] > first.get_xdata()[-1]
  assert [text.get_text() for text in axes.texts] == ['4', '2']
  assert plots.plot_training(entries, rounds, 'fid', 'FID') is None
