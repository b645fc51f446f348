import jax
import numpy as np
import pytest

from diffusion_distillation.checkpoints import Checkpoint, export
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.checkpoints.compatibility import load_teacher
from diffusion_distillation.commands import config_file
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.runtime.errors import UserError


@pytest.fixture
def dataset(config):
  return load_dataset(config.dataset.name, config.dataset.args)


@pytest.fixture
def save(tmp_path, config, dataset):
  """A function that saves a teacher of the config, with changes to its card."""
  card = make_card(
    config, dataset, num_steps=4, sampler='ddim', objective='denoising'
  )

  def save(**changes):
    changed = card.replace(**changes)
    weights = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype),
      changed.denoiser().param_shapes(),
    )
    path = tmp_path / 'teacher.safetensors'
    export(Checkpoint(weights, changed, path), path)
    return path

  save.card = card
  return save


@pytest.fixture
def config():
  """The toy config with a small U-Net, which has more arguments."""
  config = config_file.load('digits_distill')
  config.model.args.update(ch=8, emb_ch=16, attn_resolutions=())
  config.dataset.args.class_conditional = True
  config.distillation.start_num_steps = 4
  return config


def test_a_teacher_that_fits_is_loaded(config, dataset, save):
  path = save()
  teacher = load_teacher(path, config, dataset)
  assert teacher.path == path and teacher.card == save.card
  # A teacher still fits if it is sampled or computed in another way (precision,
  # memory, kernels), or if its card leaves out defaults.
  config.model.eval_logsnr_schedule.logsnr_max = 10.0
  config.model.args.update(
    dtype='bfloat16', remat=True, norm='fused', dropout=0.5
  )
  assert load_teacher(path, config, dataset).path == path
  model = save.card.model
  args = {k: v for k, v in model['args'].items() if k != 'resblock_resample'}
  alias = {'x': 'sample', 'v': 'v_prediction'}[model['mean_type']]
  # Cards from before there was a choice of noise are of Gaussian noise.
  trained = {k: v for k, v in save.card.config['model'].items() if k != 'noise'}
  path = save(
    model={**model, 'args': args, 'mean_type': alias},
    config={**save.card.config, 'model': trained},
  )
  assert load_teacher(path, config, dataset).path == path


@pytest.mark.parametrize(
  ('section', 'key', 'value'),
  [
    ('model', 'mean_type', 'x'),
    ('model.args', 'ch', 16),
    ('model.args', 'logsnr_input_type', 'linear'),
    ('model.train_logsnr_schedule', 'name', 'uniform'),
    ('model', 'noise', 'gamma'),
  ],
)
def test_a_teacher_of_another_kind_is_refused(
  config, dataset, save, section, key, value
):
  path, place = save(), config
  for name in section.split('.'):
    place = place[name]
  place[key] = value
  with pytest.raises(UserError, match='they must be the same') as error:
    load_teacher(path, config, dataset)
  assert section in str(error.value) and str(value) in str(error.value)


def test_a_teacher_with_another_number_of_classes_is_refused(
  config, dataset, save
):
  path = save()
  config.dataset.args.class_conditional = False
  dataset = load_dataset(config.dataset.name, config.dataset.args)
  with pytest.raises(UserError, match='num_classes=10 and the config 1;'):
    load_teacher(path, config, dataset)


@pytest.mark.parametrize('config_of_training', [None, {}, {'model': {}}])
def test_a_teacher_of_an_unknown_schedule_is_refused(
  config, dataset, save, config_of_training
):
  path = save(config=config_of_training)
  with pytest.raises(UserError, match='train_logsnr_schedule=None'):
    load_teacher(path, config, dataset)


def test_a_teacher_must_have_finished_its_training(config, dataset, save):
  path = save(updates=3, num_updates=9)
  with pytest.raises(UserError, match='has had 3 of 9 updates'):
    load_teacher(path, config, dataset)


def test_a_student_is_a_teacher_at_its_own_steps_only(config, dataset, save):
  path = save(parent='/runs/teacher', num_steps=8)
  with pytest.raises(UserError, match='start_num_steps=8'):
    load_teacher(path, config, dataset)
  config.distillation.start_num_steps = 8
  assert load_teacher(path, config, dataset).path == path
