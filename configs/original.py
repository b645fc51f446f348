"""Config files written for Google's original, and what a config file lacks."""

import importlib
import sys

from ml_collections import ConfigDict, config_dict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from configs import base

# (its name, its subset) -> our name
_DATASETS = {
  ('CIFAR10', None): 'cifar10',
  ('ImageNet', None): 'imagenet64',
  ('LSUN', 'bedroom'): 'lsun_bedroom128',
  ('LSUN', 'church'): 'lsun_church128',
}
# Our name -> the only size of its images.
_SIZES = {
  'cifar10': 32,
  'imagenet64': 64,
  'lsun_bedroom128': 128,
  'lsun_church128': 128,
}
# What the original's files say and nothing here asks for.
_IDLE = (
  'model.name',
  'model.logvar_loss_type',
  'model.logvar_coeff',
  'train.enable_update_skip',
  'train.retain_checkpoint_every_steps',
  'distillation.only_finetune_temb',
)
# What only its own files say idly: nothing there evaluates while training.
_IDLE_OF_THE_ORIGINAL = ('train.eval_every_steps',)
# What it says of students, and only a teacher here has.
_IDLE_OF_STUDENTS = ('model.train_num_steps', 'model.eval_sampling_num_steps')
# Where keys are free.
_OPEN = (
  'dataset.args',
  'distillation.steps_per_iter',
)


class ConfigFile(ConfigFileFlagParser):
  """Completes what a config file says, before flags change it."""

  def parse(self, path):
    try:
      config = super().parse(path)
      if config is None:
        raise ValueError('get_config() returns None')
      if type(config) is not ConfigDict:
        # A dict. Of a file that is not there, this is an OSError.
        config = ConfigDict(config)
    except OSError:
      raise
    except Exception as error:  # whatever the file's own code raises
      # ml_collections puts a whole traceback into these two.
      wrapped = isinstance(error, TypeError | ValueError)
      cause = (wrapped and error.__context__) or error
      raise ValueError(
        f'it gives no config: {type(cause).__name__}: {cause}'
      ) from error
    return complete(config)


def complete(config):
  """Returns a config that has every key: what it lacks comes from base.py.

  A config of this project comes back as it is. Of one written for the original,
  the data set gets our name, the sampler 'noisy' becomes 'ancestral', and what
  has no meaning here is dropped, with one line on stderr.

  Raises:
    ValueError: it has a key, or a data set, that there is not, or something
      else in place of a section.
  """
  whole = _template(config)
  ours, known = config.to_dict(), set(_leaves(whole.to_dict()))
  _check_sections(whole, ours)
  if not known - set(_leaves(ours)):
    _check_keys(ours, known)
    return config
  idle = _IDLE_OF_THE_ORIGINAL if _rename(ours) else ()
  dropped = [key for key in (*idle, *_idle_keys(ours)) if _pop(ours, key)]
  _check_keys(ours, known)
  _merge(whole, ours)
  if dropped:
    names = ', '.join(dropped)
    print(f'config: no meaning here, ignored: {names}', file=sys.stderr)
  if 'num_updates' in whole.train and whole.train.num_updates is None:
    # The original trains until it is stopped.
    _like_ours(whole)
  if whole.dataset.name in _SIZES and 'data_dir' not in whole.dataset.args:
    whole.dataset.args.data_dir = config_dict.placeholder(str)  # for flags
  return whole.lock()


def _template(config):
  """Returns a config with every key, of a teacher or of students."""
  whole = base.get_config()
  if config.get('distillation') is None:
    return whole
  whole = base.to_distill(whole)
  if config.get('teacher') is None:
    whole.teacher = None
  return whole


def _check_sections(whole, ours, prefix=''):
  """Raises ValueError for a section that is none."""
  for key, value in ours.items():
    if isinstance(whole.get(key), ConfigDict):
      if not isinstance(value, dict):
        raise ValueError(
          f'{prefix}{key} must be a section of the config, a ConfigDict, got '
          f'{value!r}'
        )
      _check_sections(whole[key], value, f'{prefix}{key}.')


def _rename(config):
  """Gives our names to what a config names as the original does.

  Returns:
    Whether its data set is named so.

  Raises:
    ValueError: it is, but of a subset or a size that there is not.
  """
  if config.get('sampler') == 'noisy':
    config['sampler'] = 'ancestral'
  dataset = config.get('dataset') or {}
  args = dataset.get('args') or {}
  name, subset = dataset.get('name'), args.get('subset')
  subsets = [known for theirs, known in _DATASETS if theirs == name]
  if not subsets:
    return False
  if subset not in subsets:
    known = ' or '.join(map(repr, subsets))
    raise ValueError(
      f'dataset.args.subset of {name} must be {known}, got {subset!r}'
    )
  name = dataset['name'] = _DATASETS[name, subset]
  args.pop('subset', None)
  size = args.pop('image_size', _SIZES[name])
  if size != _SIZES[name]:
    raise ValueError(
      f'dataset.args.image_size={size}: images of {name} have {_SIZES[name]} '
      'pixels here'
    )
  if 'randflip' in args:
    args['random_flip'] = args.pop('randflip')
  return True


def _idle_keys(config):
  """Returns the keys of a config that are to be dropped.

  Raises:
    ValueError: one of them asks for something that there is not.
  """
  distillation = config.get('distillation')
  if distillation is None:
    return _IDLE
  if distillation.get('only_finetune_temb'):
    raise ValueError('distillation.only_finetune_temb=True is not supported')
  return _IDLE + _IDLE_OF_STUDENTS


def _like_ours(config):
  """Sets the length of a teacher's training to that of our own config."""
  name = config.dataset.name
  if name in _SIZES:
    ours = importlib.import_module(f'configs.{name}_base').get_config()
    config.train.num_updates = ours.train.num_updates


def _leaves(config, prefix=''):
  """Yields the dotted names of a config's leaves; what is open is one."""
  for key, value in config.items():
    name = f'{prefix}{key}'
    if isinstance(value, dict) and name not in _OPEN:
      yield from _leaves(value, f'{name}.')
    else:
      yield name


def _check_keys(config, known):
  for name in _leaves(config):
    # A section that is absent is None, and stands for all its keys.
    if name not in known and not any(k.startswith(f'{name}.') for k in known):
      section = name.rpartition('.')[0]
      near = sorted(k for k in known if k.rpartition('.')[0] == section)
      raise ValueError(
        f'the config has a key {name}, which nothing reads; known: '
        f'{", ".join(near)}'
      )


def _pop(config, key):
  """Removes a dotted key; returns whether there was one."""
  *sections, name = key.split('.')
  for section in sections:
    config = config.get(section) or {}
  return config.pop(name, None) is not None


def _merge(whole, ours):
  """Sets what `ours` has in `whole`, as the types that flags expect there."""
  for key, value in ours.items():
    if isinstance(value, dict) and isinstance(whole.get(key), ConfigDict):
      _merge(whole[key], value)
    elif isinstance(value, list):
      whole[key] = tuple(value)
    else:
      whole[key] = value
