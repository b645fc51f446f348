"""--mode=report needs nothing but the run folder."""

import dataclasses
import json

import pytest

from configs import folder_distill
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.commands.report import report
from diffusion_distillation.runtime import run_folder
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.config import rounds
from tests.checkpoints.toy import CARD, card_at, make_state


@pytest.fixture
def config():
  """A config of images that are gone, with as many classes as their labels."""
  config = folder_distill.get_config()
  config.dataset.args.update(
    path='/nowhere', image_size=4, channels=1, class_conditional=True
  )
  config.model.name = CARD.model['name']
  del config.model['args']
  config.model.args = CARD.model['args']
  config.distillation.update(start_num_steps=2, steps_per_iter=9)
  return config


def test_a_run_is_reported_when_its_labels_are_gone(config, tmp_path, capsys):
  progress = {'seconds': 1.0, 'final_loss': 0.1, 'compilations': 1}
  made = [dataclasses.asdict(each) for each in rounds(config)]
  with run_folder.open_run_folder(tmp_path, config, create=True) as workdir:
    run_folder.write_config(workdir, config, rounds=made, data=None)
    for name in ('teacher', 'student_00001'):
      folder = CheckpointFolder(workdir / name / 'checkpoints')
      folder.save(make_state(9), card_at(9), progress)
  report(config, tmp_path)
  assert 'report: ' in capsys.readouterr().out
  found = json.loads((tmp_path / 'report' / 'report.json').read_text())
  assert len(found['rounds']) == 2 and found['parameters'] > 0
  # The run's own config is shown, as it was given.
  assert found['config']['dataset']['args']['num_classes'] is None


def test_a_run_without_cards_needs_its_labels(config, tmp_path):
  with run_folder.open_run_folder(tmp_path, config, create=True) as workdir:
    run_folder.write_config(workdir, config, rounds=[], data=None)
  with pytest.raises(UserError, match='/nowhere does not exist'):
    report(config, tmp_path)
