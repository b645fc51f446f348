"""The notebook runs from top to bottom at its smallest setting."""

import json
import os
import pathlib
import sys

import matplotlib.pyplot as plt
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / 'notebooks' / 'diffusion_distillation.ipynb'


def code_cells():
  for cell in json.loads(NOTEBOOK.read_text())['cells']:
    if cell['cell_type'] == 'code':
      yield ''.join(cell['source'])


@pytest.mark.slow
@pytest.mark.figures
def test_the_notebook_runs_top_to_bottom(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('SMALLEST_NOTEBOOK', '1')
  monkeypatch.setenv('NOTEBOOK_WORKDIR', str(tmp_path / 'run'))
  original = ROOT / 'tests' / 'data' / 'cifar_like.flax'
  monkeypatch.setenv('GOOGLE_CHECKPOINT', str(original))
  monkeypatch.chdir(ROOT / 'notebooks')
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.setattr(plt, 'show', plt.close)
  shown = []
  scope = {'display': shown.append}
  for number, source in enumerate(code_cells()):
    exec(compile(source, f'cell {number}', 'exec'), scope)
  # The curve, three grids, a student's images, and the original's.
  assert len(shown) == 6
  teacher, student = (
    capsys.readouterr().out.split('teacher ')[1].split(', student ')
  )
  assert float(teacher) == pytest.approx(float(student.split()[0]), abs=2e-6)
  assert os.path.exists(tmp_path / 'run' / 'report' / 'index.html')
