"""Translates a config file that was written for Google's original.

python main.py --config=configs/google.py:THEIRS.py --workdir=DIR

THEIRS.py is a file such as the original's config/cifar_distill.py, unchanged.
Data sets and samplers get their names in this project. What the original does
not say, such as how to evaluate, is as in base.py.
"""

import importlib
import sys

from ml_collections import ConfigDict

from diffusion_distillation.commands import config_file
from diffusion_distillation.runtime.errors import UserError

from . import base

# (the original's name, its subset) -> our name and the size of the images.
_DATASETS = {
  ('CIFAR10', None): ('cifar10', 32),
  ('ImageNet', None): ('imagenet64', 64),
  ('LSUN', 'bedroom'): ('lsun_bedroom128', 128),
  ('LSUN', 'church'): ('lsun_church128', 128),
}
# Keys of the original that have no counterpart here.
_IDLE = (
  'model.logvar_loss_type',
  'model.logvar_coeff',
  'train.enable_update_skip',
  'train.retain_checkpoint_every_steps',
  'train.eval_every_steps',
  'distillation.only_finetune_temb',
)
# Keys that only a teacher has here.
_IDLE_OF_STUDENTS = ('model.train_num_steps', 'model.eval_sampling_num_steps')


def get_config(path=None):
  if path is None:
    raise UserError(
      "name the original's file: --config=configs/google.py:THEIRS.py"
    )
  theirs = config_file.run(path)
  try:
    return translate(theirs)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def translate(theirs):
  """Returns the config of this project that means the same.

  A line on stderr names the keys that are ignored.

  Args:
    theirs: the ConfigDict of a config file of the original.

  Raises:
    UserError: `theirs` has a key or a data set that is unknown here.
  """
  theirs, config = theirs.to_dict(), base.get_config()
  for name in ('dataset', 'model', 'train'):
    _check_section(name, theirs.get(name))
  _set_dataset(config, theirs.pop('dataset'))
  logvar_type = theirs['model'].pop('logvar_type', None)
  _set_samplers(config, theirs.pop('sampler', None), logvar_type)
  idle = _IDLE
  if 'distillation' in theirs:
    _check_section('distillation', theirs['distillation'])
    if theirs['distillation'].get('only_finetune_temb'):
      raise UserError('distillation.only_finetune_temb=True is not supported')
    base.to_distill(config)
    # The original's students do not say how their teacher was trained.
    config.teacher = base.get_config().teacher
    idle += _IDLE_OF_STUDENTS
  ignored = [key for key in idle if _pop(theirs, key)]
  if ignored:
    print(
      f'config: ignored keys without a meaning here: {", ".join(ignored)}',
      file=sys.stderr,
    )
  _merge(config, theirs)
  return config


def _set_dataset(config, dataset):
  """Sets the data set that the original's section `dataset` names.

  A teacher's training gets the length of our own config: the original trains
  until it is stopped.
  """
  args = dict(_check_section('dataset.args', dataset.get('args')))
  known = dict(_DATASETS)
  theirs = (dataset.get('name'), args.pop('subset', None))
  if theirs not in known:
    names = ', '.join(' '.join(filter(None, key)) for key in known)
    name = ' '.join(map(str, filter(None, theirs)))
    raise UserError(f"unknown data set '{name}'; the original has: {names}")
  name, size = known[theirs]
  if args.pop('image_size', size) != size:
    raise UserError(f'dataset.args.image_size must be {size} for {name}')
  if 'randflip' in args:
    args['random_flip'] = args.pop('randflip')
  ours = importlib.import_module(f'.{name}_base', __package__).get_config()
  config.dataset = ours.dataset
  config.train.num_updates = ours.train.num_updates
  _merge(config.dataset.args, args, 'dataset.args.')


def _set_samplers(config, sampler, logvar_type):
  """Sets the samplers: 'noisy' is ancestral sampling with `logvar_type`."""
  ancestral = 'ancestral'
  if logvar_type not in (None, 'fixed_large'):
    ancestral = f'ancestral:gamma={_gamma(logvar_type):g}'
  config.eval.samplers = ('ddim', ancestral)
  if sampler is not None:
    config.sampler = ancestral if sampler == 'noisy' else sampler


def _gamma(logvar_type):
  """Returns the interpolation between small (0) and large (1) log variance."""
  if logvar_type == 'fixed_small':
    return 0.0
  kind, _, number = str(logvar_type).partition(':')
  try:
    gamma = float(number)
  except ValueError:
    gamma = -1.0
  if kind != 'fixed_medium' or not 0 <= gamma <= 1:
    raise UserError(
      f'unknown model.logvar_type {logvar_type!r}; known: fixed_small, '
      'fixed_large, fixed_medium:g with g in [0, 1]'
    )
  return gamma


def _check_section(name, value):
  """Returns the value of a section.

  Raises:
    UserError: the value is not a dict.
  """
  if not isinstance(value, dict):
    raise UserError(f'{name} must be a section of the config, got {value!r}')
  return value


def _pop(config, key):
  """Removes a dotted key and returns whether it was there with a value."""
  section, name = key.split('.')
  return (config.get(section) or {}).pop(name, None) is not None


def _merge(config, theirs, prefix=''):
  """Copies the values of a dict into a config that has all known keys.

  Raises:
    UserError: a key is unknown.
  """
  for key, value in theirs.items():
    name = f'{prefix}{key}'
    if key not in config:
      raise UserError(
        f'unknown key {name}{config_file.near(name, config, prefix)}'
      )
    if isinstance(config[key], ConfigDict):
      _merge(config[key], _check_section(name, value), f'{name}.')
    else:
      # A tuple, since flags cannot change a list.
      config[key] = tuple(value) if isinstance(value, list) else value
