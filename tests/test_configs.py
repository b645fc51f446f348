"""Our configs, the paper's values, and config files of Google's original."""

import importlib
import pathlib

import jax
import pytest
from ml_collections import ConfigDict

from configs import base, google
from diffusion_distillation.commands import config_file
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.config import (
  check,
  rounds,
  teacher_config,
)

NAMES = sorted(
  path.stem for path in pathlib.Path(base.__file__).parent.glob('*_*.py')
)
NAMES.remove('__init__')

SHAPES = {
  'cifar10': ((32, 32, 3), 1),
  'imagenet64': ((64, 64, 3), 1000),
  'lsun_bedroom128': ((128, 128, 3), 1),
  'lsun_church128': ((128, 128, 3), 1),
}
# Appendix E: parameters, batch size, learning rates of teacher and students,
# weight decay and dropout of the teacher, its steps, rounds, and the head.
PAPER = {
  'cifar10': (60_004_099, 128, 2e-4, 5e-5, 0.001, 0.2, 8192, 13, 'x'),
  'imagenet64': (295_905_222, 2048, 3e-4, 1e-4, 0.0, 0.1, 1024, 10, 'both'),
  'lsun_bedroom128': (139_578_502, 2048, 3e-4, 1e-4, 0, 0.1, 1024, 10, 'both'),
  'lsun_church128': (139_578_502, 2048, 3e-4, 1e-4, 0, 0.1, 1024, 10, 'both'),
}
# The networks of appendix E; another test checks dropout.
NETWORKS = {
  'cifar10': {
    'ch': 256,
    'emb_ch': 1024,
    'ch_mult': (1, 1, 1),
    'attn_resolutions': (8, 16),
    'num_heads': 1,
    'head_dim': None,
  },
  'imagenet64': {
    'ch': 192,
    'emb_ch': 768,
    'ch_mult': (1, 2, 3, 4),
    'attn_resolutions': (8, 16, 32),
    'num_heads': None,
    'head_dim': 64,
  },
  'lsun_bedroom128': {
    'ch': 64,
    'emb_ch': 768,
    'ch_mult': (1, 2, 4, 6, 8),
    'attn_resolutions': (8, 16, 32),
    'num_heads': None,
    'head_dim': 64,
  },
}
NETWORKS['lsun_church128'] = NETWORKS['lsun_bedroom128']
COSINE = {'name': 'cosine', 'logsnr_min': -20.0, 'logsnr_max': 20.0}


@pytest.mark.parametrize('name', PAPER)
def test_the_networks_and_schedules_are_the_paper_s(name):
  config = importlib.import_module(f'configs.{name}_distill').get_config()
  teacher = teacher_config(config)
  for part in (config, teacher):
    assert part.model.args.to_dict() == {
      **NETWORKS[name],
      'num_res_blocks': 3,
      'dropout': part.model.args.dropout,
      'logsnr_input_type': 'inv_cos',
      'logsnr_scale_range': (-10.0, 10.0),
      'resblock_resample': True,
      'dtype': 'float32',
      'remat': False,
      'norm': 'flax',
    }
    assert part.model.train_logsnr_schedule.to_dict() == COSINE
    assert part.model.eval_logsnr_schedule.to_dict() == COSINE
    assert part.train.substeps == 10
  assert teacher.model.train_num_steps == 0  # continuous time


@pytest.mark.parametrize('name', PAPER)
def test_the_configs_are_the_paper_s(name):
  params, batch, lr, student_lr, decay, dropout, start, count, head = PAPER[
    name
  ]
  config = importlib.import_module(f'configs.{name}_distill').get_config()
  alone = importlib.import_module(f'configs.{name}_base').get_config()
  teacher = teacher_config(config)
  assert teacher.train.to_dict() == alone.train.to_dict()
  assert teacher.model.to_dict() == alone.model.to_dict()

  shapes = build_denoiser(config.model, *SHAPES[name]).param_shapes()
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == params
  assert config.model.mean_type == head
  for part in (config, teacher):
    assert part.train.batch_size == batch
    assert part.train.grad_clip == 1.0
    assert part.model.mean_loss_weight_type == 'snr_trunc'
  assert teacher.train.learning_rate == lr
  assert teacher.train.learning_rate_warmup_steps == 1000
  assert teacher.train.learning_rate_anneal_type == 'constant'
  assert teacher.train.weight_decay == decay
  assert teacher.train.ema_decay == 0.9999
  assert teacher.model.args.dropout == dropout
  assert config.train.learning_rate == student_lr
  assert config.train.learning_rate_warmup_steps == 0
  assert config.train.learning_rate_anneal_type == 'linear'
  assert config.train.weight_decay == config.train.ema_decay == 0
  assert config.model.args.dropout == 0

  ladder = rounds_of(config)
  assert config.distillation.start_num_steps == start
  assert len(ladder) == count
  for this in ladder:
    assert this.num_updates == (100_000 if this.num_steps <= 2 else 50_000)


def rounds_of(config):
  """Returns the rounds of the students."""
  return [each for each in rounds(config) if each.parent is not None]


FORM = """
import ml_collections

end_num_steps = 1
updates = 3


def D(**kwargs):
  return ml_collections.ConfigDict(initial_dictionary=kwargs)


def get_config():
  ends = dict(logsnr_min=-20., logsnr_max=20.)
  return D(
    seed=0,
    sampler='noisy',
    dataset=D(name='CIFAR10', args=D(class_conditional=False, randflip=True)),
    distillation=D(
      teacher_checkpoint_path='TEACHER',
      steps_per_iter=updates,
      only_finetune_temb=False,
      start_num_steps=4,
      end_num_steps=end_num_steps,
    ),
    model=D(
      name='unet_iddpm',
      args=D(
        ch=32,
        emb_ch=64,
        ch_mult=[1, 1],
        num_res_blocks=1,
        attn_resolutions=[16],
        num_heads=1,
        dropout=0.,
        logsnr_input_type='inv_cos',
        resblock_resample=True,
      ),
      mean_type='x',
      logvar_type='fixed_large',
      mean_loss_weight_type='snr_trunc',
      train_num_steps=end_num_steps,
      eval_sampling_num_steps=end_num_steps,
      train_logsnr_schedule=D(name='cosine', **ends),
      eval_logsnr_schedule=D(name='cosine', **ends),
      eval_clip_denoised=True,
    ),
    train=D(
      batch_size=16,
      optimizer='adam',
      learning_rate=5e-5,
      learning_rate_warmup_steps=0,
      learning_rate_anneal_type='linear',
      learning_rate_anneal_steps=updates,
      weight_decay=0.,
      ema_decay=0.,
      grad_clip=1.0,
      substeps=10,
      enable_update_skip=False,
      log_loss_every_steps=1,
      checkpoint_every_secs=900,
      retain_checkpoint_every_steps=20000,
      eval_every_steps=10000,
    ),
  )
"""


def written_for_the_original():
  scope = {}
  exec(FORM, scope)
  return scope['get_config']()


def changed(section, **values):
  """Returns a config of the original with other values in a section."""
  config = written_for_the_original().to_dict()
  config[section] = {**config[section], **values}
  return ConfigDict(config)


@pytest.mark.parametrize('name', NAMES)
def test_every_config_has_all_keys(name):
  assert config_file.load(name).dataset.name is not None


@pytest.mark.parametrize('name', [n for n in NAMES if n.endswith('_distill')])
def test_a_distill_config_keeps_its_teacher_s_config(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  alone = name.replace('_distill', '_base')
  alone = importlib.import_module(f'configs.{alone}').get_config()
  teacher = teacher_config(config)
  assert teacher.model.to_dict() == alone.model.to_dict()
  assert teacher.train.to_dict() == alone.train.to_dict()
  assert config.distillation.objective == 'progressive'
  assert alone.distillation.objective is None
  # Students do not have the keys that only a teacher has.
  assert config.train.num_updates is None
  assert config.model.train_num_steps is None
  assert config.model.eval_sampling_num_steps is None


def leaves(config, prefix=''):
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value, config.get_type(key)


def test_the_section_teacher_has_types_and_no_values_before_to_distill():
  config = base.get_config()
  unset = list(leaves(config.teacher))
  assert all(value is None for _, value, _ in unset)
  base.to_distill(config)
  assert [(name, kind) for name, _, kind in leaves(config.teacher)] == [
    (name, kind) for name, _, kind in unset
  ]


def test_a_config_of_the_original_is_translated(capsys):
  config = google.translate(written_for_the_original())
  assert sorted(config) == sorted(base.get_config())
  assert config.dataset.name == 'cifar10'
  assert config.dataset.args.to_dict() == {
    'class_conditional': False,
    'random_flip': True,
    'data_dir': None,
  }
  assert config.sampler == 'ancestral'
  assert config.model.name == 'unet_iddpm'
  assert config.model.args.ch_mult == (1, 1)
  assert config.train.learning_rate == 5e-5
  assert config.train.eval_every_steps is None
  assert config.distillation.objective == 'progressive'
  assert config.distillation.teacher_checkpoint_path == 'TEACHER'
  assert config.eval.to_dict() == base.get_config().eval.to_dict()
  said = capsys.readouterr().err
  assert said.startswith('config: ignored keys without a meaning here: ')
  assert said.count('\n') == 1
  for key in ('train.enable_update_skip', 'model.train_num_steps'):
    assert key in said


def test_a_file_of_the_original_is_an_argument(tmp_path):
  path = tmp_path / 'theirs.py'
  path.write_text(FORM)
  config = config_file.load(f'configs/google.py:{path}')
  assert config.distillation.start_num_steps == 4
  path.write_text(FORM.replace('batch_size=', 'batchsize='))
  with pytest.raises(
    UserError,
    match=rf'^{path}: unknown key train.batchsize; did you mean train.batch_si',
  ):
    config_file.load(f'configs/google.py:{path}')
  path.write_text(FORM.replace('seed=0', 'seed=1 / 0'))
  with pytest.raises(UserError, match=r'theirs\.py, line \d+: ZeroDivision'):
    config_file.load(f'configs/google.py:{path}')
  with pytest.raises(UserError, match=r'--config=configs/google\.py:THEIRS'):
    config_file.load('configs/google.py')


def test_a_teacher_of_the_original_trains_as_long_as_ours():
  config = written_for_the_original().to_dict()
  del config['distillation']
  config['model']['train_num_steps'] = 0
  config['dataset'] = {
    'name': 'LSUN',
    'args': {'subset': 'church', 'image_size': 128, 'randflip': False},
  }
  translated = google.translate(ConfigDict(config))
  assert translated.dataset.name == 'lsun_church128'
  assert translated.dataset.args.to_dict() == {
    'random_flip': False,
    'data_dir': None,
  }
  assert translated.train.num_updates == 100_000
  assert translated.model.train_num_steps == 0
  assert translated.distillation.objective is None


@pytest.mark.parametrize(
  ('sampler', 'logvar_type', 'sampled', 'evaluated'),
  [
    ('noisy', 'fixed_large', 'ancestral', 'ancestral'),
    ('noisy', 'fixed_small', 'ancestral:gamma=0', 'ancestral:gamma=0'),
    ('noisy', 'fixed_medium:.3', 'ancestral:gamma=0.3', 'ancestral:gamma=0.3'),
    ('ddim', 'fixed_medium:0.5', 'ddim', 'ancestral:gamma=0.5'),
  ],
)
def test_the_variance_is_an_option_of_the_sampler(
  sampler, logvar_type, sampled, evaluated
):
  theirs = changed('model', logvar_type=logvar_type)
  theirs.sampler = sampler
  config = google.translate(theirs)
  assert config.sampler == sampled
  assert config.eval.samplers == ('ddim', evaluated)


@pytest.mark.parametrize(
  ('section', 'values', 'message'),
  [
    ('train', {'batchsize': 3}, r'unknown key train\.batchsize; did you mean'),
    ('model', {'colour': 3}, r'unknown key model\.colour'),
    ('model', {'logvar_type': 'large'}, 'known: fixed_small, fixed_large'),
    ('model', {'logvar_type': 'fixed_medium:7'}, 'known: fixed_small'),
    ('model', {'args': [1]}, r'model\.args must be a section'),
    ('distillation', {'only_finetune_temb': True}, 'not supported'),
    ('dataset', {'args': None}, r'dataset\.args must be a section'),
    ('dataset', {'name': 'CIFAR100'}, 'CIFAR100.*CIFAR10, ImageNet, LSUN bed'),
    ('dataset', {'name': 'LSUN'}, "'LSUN'; the original has: .*LSUN church"),
    (
      'dataset',
      {'name': 'LSUN', 'args': {'subset': 'cat'}},
      "unknown data set 'LSUN cat'",
    ),
    (
      'dataset',
      {'name': 'ImageNet', 'args': {'image_size': 128}},
      'image_size must be 64 for imagenet64',
    ),
    (
      'dataset',
      {'args': {'crop': True}},
      r'unknown key dataset\.args\.crop',
    ),
  ],
)
def test_unknown_keys_and_values_are_refused(section, values, message):
  with pytest.raises(UserError, match=message):
    google.translate(changed(section, **values))


@pytest.mark.parametrize('section', ['dataset', 'model', 'train'])
@pytest.mark.parametrize('value', [3, None, 'x'])
def test_a_value_that_is_not_a_section_is_named(section, value):
  theirs = ConfigDict({**written_for_the_original().to_dict(), section: value})
  with pytest.raises(UserError, match=f'^{section} must be a section'):
    google.translate(theirs)


@pytest.mark.parametrize('updates', [{1: 5, 2: 6}, {'1': 5, '2': 6}])
def test_updates_may_be_a_mapping_in_a_file(updates):
  config = google.translate(changed('distillation', steps_per_iter=updates))
  ladder = rounds_of(config)
  assert [(r.num_steps, r.num_updates) for r in ladder] == [(2, 6), (1, 5)]


def test_students_of_the_original_need_a_checkpoint():
  config = google.translate(written_for_the_original())
  config.distillation.teacher_checkpoint_path = None
  with pytest.raises(UserError, match='teacher_checkpoint_path'):
    check(config)


def test_lsun_church_differs_from_bedroom_in_data_and_length():
  bedroom, church = (
    importlib.import_module(f'configs.lsun_{name}128_distill').get_config()
    for name in ('bedroom', 'church')
  )
  church.dataset.name = bedroom.dataset.name
  church.teacher.train.num_updates = bedroom.teacher.train.num_updates
  assert church.to_dict() == bedroom.to_dict()
