import jax
import pytest

from diffusion_distillation.objectives.rounds import number_of, rounds
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.config import check, teacher_config


def test_rounds_halve_from_start_to_end(config):
  config.distillation.update(
    start_num_steps=8192, end_num_steps=1, steps_per_iter=50
  )
  got = rounds(config.distillation)
  assert [r.num_steps for r in got] == [2**k for k in range(12, -1, -1)]
  assert {r.num_updates for r in got} == {50}
  config.distillation.update(start_num_steps=12, end_num_steps=3)
  assert [r.num_steps for r in rounds(config.distillation)] == [6, 3]


def test_updates_may_be_a_mapping_from_steps(config):
  config.distillation.update(start_num_steps=8, end_num_steps=1)
  config.distillation.steps_per_iter = {4: 50, 2: 100, '1': 100}
  got = rounds(config.distillation)
  assert [(r.num_steps, r.num_updates) for r in got] == [
    (4, 50),
    (2, 100),
    (1, 100),
  ]
  config.distillation.steps_per_iter = {4: 50}
  with pytest.raises(ValueError, match='round to 2 steps'):
    rounds(config.distillation)


@pytest.mark.parametrize(
  ('start', 'end'), [(12, 1), (8, 3), (4, 4), (1, 2), (0, 1), (8, 0), (6, -3)]
)
def test_step_counts_that_cannot_be_halved_are_refused(config, start, end):
  config.distillation.update(start_num_steps=start, end_num_steps=end)
  with pytest.raises(ValueError, match='power-of-two multiple'):
    rounds(config.distillation)


@pytest.mark.parametrize('updates', [0, -1, 2.5, True, 'many', None])
def test_updates_that_are_no_number_are_refused(config, updates):
  config.distillation.steps_per_iter = updates
  with pytest.raises(ValueError, match='positive number of updates'):
    rounds(config.distillation)


def test_the_teacher_differs_where_its_section_says(config):
  with config.unlocked():
    config.teacher.model.args.dropout = 0.3
  config.teacher.train.num_updates = 77
  config.model.args.ch = 24
  config.model.mean_loss_weight_type = 'v_mse'
  teacher = teacher_config(config)
  assert teacher.model.args.dropout == 0.3 and config.model.args.dropout == 0
  assert teacher.train.num_updates == 77
  assert teacher.train.ema_decay == 0.999 and config.train.ema_decay == 0
  # All else is shared.
  assert teacher.model.args.ch == 24
  assert teacher.model.mean_loss_weight_type == 'v_mse'
  assert teacher.distillation is None and teacher.teacher is None


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('model.mean_type', 'score', 'known: x, eps, v, both'),
    ('model.mean_loss_weight_type', 'snr+1', 'known: constant'),
    ('model.train_logsnr_schedule.name', 'linear', 'known: cosine'),
    ('model.eval_logsnr_schedule.logsnr_min', 30.0, 'below'),
    ('model.logvar_type', 'fixed_medium:7', 'known: fixed_small'),
    ('model.args.logsnr_input_type', 'cos', 'known: inv_cos'),
    ('model.args.dropout', 1.0, '0 to 0.999'),
    ('model.args.ch', 7, 'even'),
    ('model.args.dtype', 'float', 'known: float32'),
    ('sampler', 'ddpm', 'known: ddim, ancestral'),
    ('train.optimizer', 'lion', 'known: adam'),
    ('train.learning_rate_anneal_type', 'cosine', 'known: constant'),
    ('train.batch_size', 6, 'multiple of 4 devices x .*=1; use 4'),
    ('train.accumulate', 3, 'multiple of 4 devices x .*accumulate=3; use 12'),
    ('train.accumulate', 32, 'multiple of 4 devices x .*=32; use 128'),
    ('teacher.train.accumulate', 8, '=16 must .* x train.accumulate=8; use 32'),
    ('train.accumulate', 0, 'accumulate must be at least 1'),
    ('train.learning_rate', float('nan'), '0 to 1000000.0'),
    ('train.log_loss_every_steps', 0, 'at least 1'),
    ('teacher.train.num_updates', 0, '1 to'),
    ('teacher.train.optimizer', 'lion', 'known: adam'),
    ('seed', -1, '0 to 4294967295'),
    ('train.ema_decay', 1.0, 'ema_decay'),
    ('train.learning_rate', float('inf'), 'learning_rate'),
    ('model.eval_logsnr_schedule.logsnr_min', -float('inf'), 'finite'),
    ('seed', 2**32, '0 to 4294967295'),
    ('distillation.start_num_steps', 2**40, '2 to 1048576'),
    ('model.args.ch_mult', (0,), 'ch_mult'),
    ('model.args.ch_mult', (), 'ch_mult'),
    ('model.args.num_heads', 0, 'at least 1'),
    ('teacher.train.num_updates', None, 'num_updates, the length'),
    ('dataset.name', 'mnist', 'known: digits'),
    ('distillation.start_num_steps', 6, 'power-of-two'),
    ('eval.num_samples', 2, '4 to'),
    ('eval.samplers', ('ddpm',), 'known: ddim, ancestral'),
    ('eval.student_samplers', ('ddim', 'ddpm'), 'known: ddim, ancestral'),
    ('eval.num_steps', (4, 0), 'eval.num_steps must be ints of 1 to'),
    ('eval.num_steps', (2.5,), 'eval.num_steps must be ints of 1 to'),
  ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
  config, key, value, message
):
  *sections, name = key.split('.')
  section = config
  for part in sections:
    section = section[part]
  section[name] = value
  with pytest.raises(UserError, match=message) as caught:
    check(config)
  assert '\n' not in str(caught.value)


def test_a_config_that_makes_sense_gives_its_data_and_denoiser(config):
  dataset, denoiser = check(config)
  assert dataset.num_classes == 10
  assert denoiser.image_shape == (8, 8, 1)
  assert jax.device_count() == 4


def test_a_config_without_a_section_is_refused(config):
  with config.unlocked():
    del config.train
  with pytest.raises(UserError, match='lacks the key'):
    check(config)


def test_a_round_is_known_by_its_folder(config):
  for this in rounds(config.distillation):
    assert number_of(this.name) == this.num_steps
  assert number_of('student_131072') == 131072
  for name in ('teacher', 'student_', 'student_4b', 'samples', '00004'):
    assert number_of(name) is None
