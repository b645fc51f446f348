"""The checks before a run, and the trainings that a config describes."""

import jax
import pytest

from diffusion_distillation.commands import config_file
from diffusion_distillation.networks.mlp import MLP
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.config import (
  check,
  rounds,
  teacher_config,
  teacher_num_steps,
  trainings,
)
from tests.conftest import tiny_config


def set_key(config, key, value):
  *sections, name = key.split('.')
  for section in sections:
    config = config[section]
  with config.unlocked():
    config[name] = value


def refusal(config):
  """Returns the line with which a config is refused."""
  with pytest.raises(UserError) as caught:
    check(config)
  line = str(caught.value)
  assert line.startswith('config: ') and '\n' not in line
  return line


def test_the_teacher_differs_where_its_section_says(config):
  config.teacher.model.args.dropout = 0.3
  config.teacher.train.num_updates = 77
  config.model.args.width = 24
  config.model.mean_loss_weight_type = 'v_mse'
  teacher = teacher_config(config)
  assert teacher.model.args.dropout == 0.3 and config.model.args.dropout == 0
  assert teacher.train.num_updates == 77 and config.train.num_updates is None
  assert teacher.train.ema_decay == 0.999 and config.train.ema_decay == 0
  assert teacher.model.train_num_steps == 0
  # Everything else is shared.
  assert teacher.model.args.width == 24
  assert teacher.model.mean_loss_weight_type == 'v_mse'
  assert teacher.distillation.objective is None
  # The config of a teacher alone equals its part of a config with students.
  assert teacher_config(teacher).to_dict() == teacher.to_dict()


def test_a_run_has_the_trainings_of_its_config(config):
  def kinds():
    return [
      (t.step_name, t.is_teacher, t.objective.needs_teacher, t.config.train)
      for t in trainings(config)
    ]

  students = ('distill_step', False, True, config.train)
  teacher = ('train_step', True, False, teacher_config(config).train)
  assert kinds() == [teacher, students]
  config.distillation.teacher_checkpoint_path = 'somewhere'
  assert kinds() == [students]
  # The path belongs to the section `distillation`, which is not read then.
  config.distillation.objective = None
  assert kinds() == [teacher]


def test_the_steps_of_the_teacher_come_from_the_config(config):
  config.teacher.model.eval_sampling_num_steps = 32
  assert teacher_num_steps(config) == config.distillation.start_num_steps == 4
  assert teacher_num_steps(teacher_config(config)) == 32
  assert rounds(config)[0].num_steps == 32


WRONG = [
  ('model.name', 'dit', 'known: unet_iddpm, mlp'),
  ('model.args.width', 0, 'model.args.width must be 1 to 65536, got 0'),
  ('model.args.dtype', 'float', 'known: float32'),
  ('model.args.dropout', 1.0, 'at least 0 and below 1'),
  ('model.mean_type', 'score', 'known: x, eps, v, both'),
  ('model.mean_loss_weight_type', 'snr+1', 'known: constant'),
  ('model.noise', 'laplace', 'known: gaussian, gamma'),
  ('model.theta_0', -0.1, 'model.theta_0 must be'),
  ('model.train_logsnr_schedule.name', 'linear', 'known: cosine'),
  ('model.train_logsnr_schedule.shift', 1.0, 'train_logsnr_schedule.shift'),
  ('model.eval_logsnr_schedule', {}, 'known: cosine'),
  ('model.eval_logsnr_schedule.logsnr_min', 30.0, 'below'),
  ('model.eval_logsnr_schedule.logsnr_max', 2e3, 'model.eval_logsnr_schedule:'),
  ('model.eval_logsnr_schedule.logsnr_max', 2e3, 'from -80 to 80'),
  (
    'model.train_logsnr_schedule',
    {'name': 'cosine', 'logsnr_min': '-20'},
    "model.train_logsnr_schedule.logsnr_min must be float, got '-20'",
  ),
  ('dataset.name', 'mnits', 'known: digits'),
  (
    'dataset.args',
    {'class_conditional': 'no'},
    "dataset.args.class_conditional must be bool, got 'no'",
  ),
  ('sampler', 'ddpm', 'known: ddim, ancestral'),
  ('sampler', 'ancestral:gamma=2', 'gamma'),
  ('seed', -1, 'seed must be 0 to 4294967295'),
  ('seed', 2**32, 'seed must be 0 to 4294967295'),
  ('train.optimizer', 'lion', 'known: adam'),
  ('train.learning_rate_anneal_type', 'cosine', 'known: constant'),
  ('train.batch_size', 6, 'multiple of 4 devices x train.accumulate=1; use 4'),
  ('train.batch_size', 2**40, 'train.batch_size must be 1 to 1048576, got'),
  ('train.batch_size', None, 'train.batch_size must be 1 to 1048576, got None'),
  ('distillation.start_num_steps', None, '2 to 1048576, got None'),
  ('train.accumulate', 3, 'x train.accumulate=3; use 12'),
  ('train.accumulate', 32, 'x train.accumulate=32; use 128'),
  ('train.accumulate', 0, 'train.accumulate must be at least 1, got 0'),
  ('train.learning_rate', float('nan'), 'train.learning_rate must be 0 to'),
  ('train.learning_rate', float('inf'), 'train.learning_rate must be 0 to'),
  ('train.ema_decay', 1.0, 'train.ema_decay must be 0 to'),
  ('train.log_loss_every_steps', 0, 'train.log_loss_every_steps must be at'),
  ('teacher.train.accumulate', 8, '=16 must be a multiple of 4 devices'),
  ('teacher.train.num_updates', 0, 'num_updates must be 1 to'),
  ('teacher.train.optimizer', 'lion', 'known: adam'),
  (
    'teacher.model.args.dropout',
    1.0,
    'section `teacher`: model.args.dropout must be',
  ),
  ('objective', 'progresive', 'known: denoising, sliced'),
  ('objective', 'progressive', 'set distillation.objective to it'),
  ('distillation.objective', 'denoising', 'set objective to it'),
  ('distillation.start_num_steps', 6, 'power of two times'),
  ('distillation.start_num_steps', 2**40, '2 to 1048576'),
  ('distillation.steps_per_iter', 0, 'positive number of updates'),
  ('eval.num_samples', 2, 'eval.num_samples must be 6 to'),
  ('eval.samplers', ('ddpm',), 'known: ddim, ancestral'),
  ('eval.student_samplers', ('ddim', 'ddpm'), 'known: ddim, ancestral'),
  ('eval.num_steps', (4, 0), 'eval.num_steps must be ints of 1 to'),
  ('eval.num_steps', (2.5,), 'eval.num_steps must be ints of 1 to'),
]
WRONG_UNET = [
  ('model.args.ch', 7, 'even'),
  ('model.args.ch', 2, 'ch must be even and at least 4'),
  ('model.args.ch_mult', (0,), 'ch_mult'),
  ('model.args.ch_mult', (), 'ch_mult'),
  ('model.args.num_heads', 0, 'must be 1 to'),
  ('model.args.logsnr_input_type', 'cos', 'known: inv_cos'),
]


@pytest.mark.parametrize(('key', 'value', 'message'), WRONG)
def test_an_invalid_config_is_refused_in_one_line(config, key, value, message):
  set_key(config, key, value)
  assert message in refusal(config)


@pytest.mark.parametrize(('key', 'value', 'message'), WRONG_UNET)
def test_invalid_arguments_of_a_unet_are_refused(key, value, message):
  config = config_file.load('digits_distill')
  set_key(config, key, value)
  assert message in refusal(config)


def test_arguments_have_the_types_of_the_network():
  config = config_file.load('digits_distill')
  args = {**config.model.args.to_dict(), 'ch': '16'}
  set_key(config, 'model.args', args)
  assert refusal(config) == "config: model.args.ch must be int, got '16'"


def test_a_dropout_may_be_0_where_the_teacher_s_is_a_fraction(config):
  args = {**config.model.args.to_dict(), 'dropout': 0}
  set_key(config, 'model.args', args)
  config.teacher.model.args.dropout = 0.1
  check(config)
  assert teacher_config(config).model.args.dropout == 0.1


def test_an_error_in_the_section_teacher_names_it(config):
  config.train.grad_clip = config.teacher.train.grad_clip = 0.0
  assert 'teacher' not in refusal(config)
  config.train.grad_clip = 1.0
  assert 'section `teacher`: train.grad_clip' in refusal(config)
  # Without students, the message names the config's own section.
  assert 'teacher' not in refusal(teacher_config(config))


@pytest.mark.parametrize(
  ('key', 'remedy'),
  [
    ('train.num_updates', 'teacher.train.num_updates, or distillation.steps_'),
    ('model.train_num_steps', 'teacher.model.train_num_steps'),
    (
      'model.eval_sampling_num_steps',
      'teacher.model.eval_sampling_num_steps',
    ),
  ],
)
def test_keys_of_a_teacher_are_refused_for_students(config, key, remedy):
  set_key(config, key, 9)
  assert f'{key} does not apply to students; set {remedy}' in refusal(config)
  teacher = config_file.load('digits_base')
  set_key(teacher, key, 9)
  check(teacher)
  set_key(teacher, key, None)
  assert refusal(teacher) == f'config: {key} is not set'


def test_a_config_without_a_teacher_needs_a_checkpoint(config):
  # A config of the original does not say how to train a teacher.
  config.teacher.train.num_updates = None
  for key in ('train_num_steps', 'eval_sampling_num_steps'):
    config.teacher.model[key] = None
  for key in (
    'train.num_updates',
    'model.train_num_steps',
    'model.eval_sampling_num_steps',
  ):
    line = refusal(config)
    assert f'teacher.{key} is not set' in line
    assert 'set distillation.teacher_checkpoint_path' in line
    set_key(config, f'teacher.{key}', 9)
  check(config)
  config.teacher.train.num_updates = None
  config.distillation.teacher_checkpoint_path = 'somewhere'
  check(config)


def test_a_config_that_makes_sense_gives_its_data_and_denoiser(config):
  dataset, denoiser = check(config, open_data=True)
  assert dataset.num_classes == 10
  assert denoiser.image_shape == (8, 8, 1)
  assert isinstance(denoiser.network, MLP) and denoiser.network.width == 16
  assert jax.device_count() == 4


def test_data_are_opened_only_on_request(config):
  set_key(config, 'dataset.name', 'folder')
  set_key(config, 'dataset.args', {'path': '/nowhere', 'image_size': 8})
  check(config)
  with pytest.raises(UserError, match='/nowhere'):
    check(config, open_data=True)


@pytest.mark.parametrize('kind', [KeyError, TypeError, AttributeError])
def test_a_bug_in_a_check_is_not_an_error_of_the_config(monkeypatch, kind):
  def check_shape(self, image_shape):
    raise kind('bug')

  monkeypatch.setattr(MLP, 'check', check_shape)
  with pytest.raises(kind, match='bug'):
    check(tiny_config())
  assert not issubclass(UserError, ValueError)
