"""The paper's configs, and config files written for Google's original."""

import importlib
import json
import pathlib

import jax
import pytest
from ml_collections import ConfigDict

from configs import base, cifar10_distill, original
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.objectives.rounds import rounds as rounds_of

SHAPES = {
  'cifar10': ((32, 32, 3), 1),
  'imagenet64': ((64, 64, 3), 1000),
  'lsun_bedroom128': ((128, 128, 3), 1),
  'lsun_church128': ((128, 128, 3), 1),
}
# Appendix E, of teacher and students, and the parameters that it makes.
PAPER = {
  'cifar10': (60_004_099, 128, 2e-4, 5e-5, 0.001, 0.2, 8192, 13, 'x'),
  'imagenet64': (295_905_222, 2048, 3e-4, 1e-4, 0.0, 0.1, 1024, 10, 'both'),
  'lsun_bedroom128': (139_578_502, 2048, 3e-4, 1e-4, 0, 0.1, 1024, 10, 'both'),
  'lsun_church128': (139_578_502, 2048, 3e-4, 1e-4, 0, 0.1, 1024, 10, 'both'),
}


# The networks of appendix E, of teacher and students but for the dropout.
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
  teacher = config.teacher_config(config)
  for part in (config, teacher):
    assert part.model.args.to_dict() == {
      **NETWORKS[name],
      'num_res_blocks': 3,
      'dropout': part.model.args.dropout,  # is tested below
      'logsnr_input_type': 'inv_cos',
      'logsnr_scale_range': (-10.0, 10.0),  # of the input 'linear' alone
      'resblock_resample': True,
      'dtype': 'float32',
      'remat': False,
    }
    assert part.model.train_logsnr_schedule.to_dict() == COSINE
    assert part.model.eval_logsnr_schedule.to_dict() == COSINE
    assert part.train.substeps == 10
  assert teacher.model.train_num_steps == 0  # continuous time


@pytest.mark.parametrize('name', PAPER)
def test_the_configs_are_the_paper_s(name):
  params, batch, lr, student_lr, decay, dropout, start, rounds, head = PAPER[
    name
  ]
  config = importlib.import_module(f'configs.{name}_distill').get_config()
  alone = importlib.import_module(f'configs.{name}_base').get_config()
  teacher = config.teacher_config(config)
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

  ladder = rounds_of(config.distillation)
  assert config.distillation.start_num_steps == start
  assert len(ladder) == rounds
  for this in ladder:
    assert this.num_updates == (100_000 if this.num_steps <= 2 else 50_000)


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


def test_a_config_of_the_original_is_completed(capsys):
  config = original.complete(written_for_the_original())
  template = base.to_distill(base.get_config())
  assert sorted(config) == sorted(template)
  assert sorted(config.train) == sorted(template.train)
  assert sorted(config.model.args) == sorted(template.model.args)
  assert config.dataset.name == 'cifar10'
  assert config.dataset.args.to_dict() == {
    'class_conditional': False,
    'random_flip': True,
    'data_dir': None,
  }
  assert config.sampler == 'ancestral'
  assert config.model.args.ch_mult == (1, 1)
  assert config.train.learning_rate == 5e-5
  assert config.train.eval_every_steps is None
  assert config.eval.to_dict() == template.eval.to_dict()
  ignored = capsys.readouterr().err
  for key in ('model.name', 'train.enable_update_skip', 'only_finetune_temb'):
    assert key in ignored
  assert original.complete(config) is config


def test_a_teacher_of_the_original_trains_as_long_as_ours():
  config = written_for_the_original()
  del config['distillation']
  config.dataset = {
    'name': 'LSUN',
    'args': {'subset': 'church', 'image_size': 128, 'randflip': False},
  }
  done = original.complete(ConfigDict(config))
  assert done.dataset.name == 'lsun_church128'
  assert done.dataset.args.to_dict() == {
    'random_flip': False,
    'data_dir': None,
  }
  assert done.train.num_updates == 100_000


def test_our_configs_are_complete_as_they_are():
  for path in pathlib.Path(base.__file__).parent.glob('*_*.py'):
    config = importlib.import_module(f'configs.{path.stem}').get_config()
    assert original.complete(config) is config


@pytest.mark.parametrize(
  ('section', 'key', 'value', 'message'),
  [
    (
      'train',
      'batchsize',
      3,
      'train.batchsize, which nothing reads; known',
    ),
    ('model', 'colour', 'red', 'model.colour, which nothing reads'),
    ('distillation', 'only_finetune_temb', True, 'not supported'),
  ],
)
def test_a_key_that_nothing_reads_is_named(section, key, value, message):
  for config in (written_for_the_original(), cifar10_distill.get_config()):
    if key in base.to_distill(base.get_config())[section]:
      continue
    with config.unlocked():
      config[section][key] = value
    if key == 'only_finetune_temb' and 'eval' in config:
      message = 'which nothing reads'
    with pytest.raises(ValueError, match=message):
      original.complete(config)


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('assert 3 == 4, "odd"', 'AssertionError: odd'),
    ('1 / 0', 'ZeroDivisionError: division by zero'),
    ('raise RuntimeError("boom")', 'RuntimeError: boom'),
    ('raise ValueError("bad")', 'ValueError: bad$'),
    ('import nothing_of_this_name', 'ModuleNotFoundError: No module'),
    ('return None', r'get_config\(\) returns None'),
    ('return 3', "AttributeError: 'int' object"),
  ],
)
def test_a_config_file_that_does_not_run_says_why(tmp_path, body, message):
  path = tmp_path / 'config.py'
  path.write_text(f'def get_config():\n  {body}\n')
  with pytest.raises(ValueError, match=message) as error:
    original.ConfigFile(name='config').parse(str(path))
  assert '\n' not in str(error.value)


def test_a_config_may_be_a_dict(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text('def get_config():\n  return {"seed": 7}\n')
  config = original.ConfigFile(name='config').parse(str(path))
  assert config.seed == 7 and config.train.batch_size == 128


def test_a_missing_config_file_is_an_error_of_the_file_system(tmp_path):
  with pytest.raises(OSError, match='No such file'):
    original.ConfigFile(name='config').parse(str(tmp_path / 'no.py'))


@pytest.mark.parametrize(
  ('config', 'section'),
  [
    ({'train': 3}, 'train'),
    ({'train': None}, 'train'),
    ({'model': None}, 'model'),
    ({'model': {'args': [1]}}, 'model.args'),
    ({'dataset': 'CIFAR10'}, 'dataset'),
    ({'dataset': {'name': 'CIFAR10', 'args': None}}, 'dataset.args'),
    ({'distillation': 5}, 'distillation'),
    ({'distillation': {}, 'teacher': 5}, 'teacher'),
  ],
)
def test_what_is_no_section_is_named(config, section):
  with pytest.raises(ValueError, match=f'^{section} must be a section'):
    original.complete(ConfigDict(config))


@pytest.mark.parametrize('subset', [None, 'cat'])
def test_a_subset_of_lsun_must_be_one(subset):
  args = {'image_size': 128} | ({} if subset is None else {'subset': subset})
  config = ConfigDict({'dataset': {'name': 'LSUN', 'args': args}})
  with pytest.raises(ValueError, match="must be 'bedroom' or 'church'"):
    original.complete(config)


@pytest.mark.parametrize('config', [{}, {'dataset': {'name': 'CIFAR100'}}])
def test_an_unknown_data_set_is_told_first(config):
  config = original.complete(ConfigDict(config))
  with pytest.raises(config.UserError, match=r'unknown data set .* cifar10'):
    config.check(config)


@pytest.mark.parametrize('updates', [{1: 5, 2: 6}, {'1': 5, '2': 6}])
@pytest.mark.parametrize('incomplete', [True, False])
def test_updates_may_be_a_mapping_in_a_file(updates, incomplete):
  config = written_for_the_original()
  if not incomplete:
    config = ConfigDict(original.complete(config).to_dict())
  config.distillation = {**config.distillation, 'steps_per_iter': updates}
  ladder = rounds_of(original.complete(ConfigDict(config)).distillation)
  assert [(r.num_steps, r.num_updates) for r in ladder] == [(2, 6), (1, 5)]


def test_another_image_size_than_there_is_is_refused():
  config = written_for_the_original()
  config.dataset = {'name': 'ImageNet', 'args': {'image_size': 128}}
  with pytest.raises(ValueError, match='image_size=128'):
    original.complete(config)


def test_students_without_teacher_or_its_section_are_refused():
  config = original.complete(written_for_the_original())
  config.distillation.teacher_checkpoint_path = None
  with pytest.raises(config.UserError, match='teacher_checkpoint_path'):
    config.check(config)
  json.dumps(config.to_dict())
