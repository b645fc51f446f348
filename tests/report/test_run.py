"""How the rows of a run are drawn, with a stand-in for the generator."""

import dataclasses
import types

import numpy as np
import pytest

from diffusion_distillation.data import digits
from diffusion_distillation.generation import grids
from diffusion_distillation.report import run as runs
from diffusion_distillation.report.rows import Row
from diffusion_distillation.runtime.errors import UserError
from tests.conftest import tiny_config

DATASET = digits.load()


@pytest.fixture
def loaded(monkeypatch):
  """The paths that are loaded; the checksum of weights is their path."""
  paths = []

  def load(path, config):
    paths.append(path)
    return types.SimpleNamespace(weights=path, path=path, checksum=path)

  def drawer(weights, sampler, num_images):
    return lambda seeds, num_steps: np.zeros((len(seeds), 8, 8, 1), np.uint8)

  generator = types.SimpleNamespace(drawer=drawer, batch_size=8)
  monkeypatch.setattr(runs, 'load', load)
  monkeypatch.setattr(runs, 'make_generator', lambda *args: generator)
  return paths


def draw(rows, workdir, monkeypatch):
  monkeypatch.setattr(runs, 'plan_rows', lambda config, workdir: rows)
  runs.draw_grids(tiny_config(), DATASET, workdir)


def test_each_checkpoint_is_loaded_once(tmp_path, loaded, monkeypatch):
  rows = [
    Row('student', name, sampler, 2, 3, 'of its files', name)
    for sampler in ('ddim', 'ancestral', 'heun')
    for name in ('student_00002', 'student_00001')
  ]
  teacher = Row('teacher', 'teacher', 'ddim', 4, None, '/teacher', '/teacher')
  rows += [dataclasses.replace(teacher, num_steps=n) for n in (4, 2, 1)]
  draw(rows, tmp_path, monkeypatch)
  assert loaded == ['student_00002', 'student_00001', '/teacher']
  assert all(grids.shows(r.grid(tmp_path), r.description) for r in rows)


class KilledError(Exception):
  pass


def test_rows_without_noise_are_compared_with_the_teacher_s_solution(
  tmp_path, monkeypatch
):
  def row(network, sampler, num_steps):
    return Row(network, network, sampler, num_steps, 3, 'sum', network)

  drawn, alive = [], [True]

  def drawer(weights, sampler, num_images):
    def draw(seeds, num_steps):
      if not alive[0] and len(drawn) == 2:
        raise KilledError
      drawn.append((weights, sampler, num_steps, int(seeds[0])))
      # The solution is at 100 + 51, where the others are at 100.
      value = 100 + 51 * (num_steps == 1024)
      return np.full((len(seeds), 8, 8, 1), value, np.uint8)

    return draw

  generator = types.SimpleNamespace(drawer=drawer, batch_size=4)
  evaluator = types.SimpleNamespace(
    protocol=lambda count: {'label': 'FID', 'num_samples': count},
    measure=lambda batches, count: {'frechet_distance': 1.0},
    real_figures=lambda num_images: {},
  )
  planned = [row('teacher', 'ancestral', 2), row('student', 'ddim', 2)]
  monkeypatch.setattr(runs, 'make_generator', lambda *args: generator)
  monkeypatch.setattr(
    runs,
    'load',
    lambda path, config: types.SimpleNamespace(weights=path, checksum='sum'),
  )
  monkeypatch.setattr(runs, 'plan_rows', lambda config, workdir: planned)
  solution = row('teacher', 'ddim', 1024)
  monkeypatch.setattr(runs, 'solution_row', lambda config, workdir: solution)
  config = tiny_config()
  config.eval.num_samples = 6

  def evaluate():
    return runs.evaluate_run(config, DATASET, tmp_path, evaluator)

  alive[0] = False
  with pytest.raises(KilledError):
    evaluate()
  # Compilation, and the first of two batches; the second comes now.
  alive[0] = True
  assert drawn[1:] == [('teacher', 'ddim', 1024, 0)]
  protocol = evaluate()
  assert protocol['solution'] == 'DDIM in 1,024 steps'
  solved = [each for each in drawn if each[2] == 1024]
  assert [seed for *_, seed in solved] == [0, 4]
  found = [runs.Measured(tmp_path).find(each, protocol) for each in planned]
  assert 'teacher_rmse' not in found[0]
  assert found[1]['teacher_rmse'] == pytest.approx(0.4)
  # Another row is compared with the same images, and nothing is drawn again.
  planned.append(row('teacher', 'heun', 2))
  evaluate()
  assert [each for each in drawn if each[2] == 1024] == solved
  # Of another solution, all rows are measured again.
  solution = dataclasses.replace(solution, checksum='other')
  assert evaluate()['solution_checksum'] == 'other'
  assert len([each for each in drawn if each[2] == 1024]) == 4


def test_another_teacher_than_the_run_s_is_not_measured(
  tmp_path, loaded, monkeypatch
):
  row = Row('teacher', 'teacher', 'ddim', 4, None, '/teacher', '/another')
  with pytest.raises(UserError, match='/another is not the teacher') as error:
    draw([row], tmp_path, monkeypatch)
  assert 'distillation.teacher_checkpoint_path' in str(error.value)
  assert '\n' not in str(error.value)
  # A run of an earlier version does not know the checksum.
  draw([dataclasses.replace(row, checksum=None)], tmp_path, monkeypatch)


def first_images(dataset):
  return np.stack([dataset.train[i]['image'] for i in range(100)])


def test_the_picture_of_training_images_is_that_of_the_measured_ones(tmp_path):
  path = tmp_path / 'samples' / 'training_images.png'
  swapped = dataclasses.replace(DATASET, open_train=DATASET.open_heldout)

  def gone():
    raise UserError('moved')

  nowhere = dataclasses.replace(DATASET, open_train=gone)

  def shown(dataset, checksum):
    protocol = {'reference_checksum': checksum}
    return runs._training_images(dataset, tmp_path, protocol)

  assert runs._training_images(nowhere, tmp_path, None) is None
  np.testing.assert_array_equal(shown(DATASET, 'a'), first_images(DATASET))
  # If nothing has changed, the data are not read.
  np.testing.assert_array_equal(shown(nowhere, 'a'), first_images(DATASET))
  np.testing.assert_array_equal(shown(swapped, 'b'), first_images(swapped))
  # Without data, the old picture is kept.
  np.testing.assert_array_equal(shown(nowhere, 'c'), first_images(swapped))
  path.write_bytes(path.read_bytes()[:100])
  assert shown(nowhere, 'b') is None
  np.testing.assert_array_equal(shown(DATASET, 'b'), first_images(DATASET))
