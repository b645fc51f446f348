"""Interprets a config: its trainings, and checks of its values."""

import contextlib
import copy
import dataclasses
import math
import re

import jax
from ml_collections import ConfigDict

from diffusion_distillation.checkpoints.card import MAX_NUM_STEPS
from diffusion_distillation.core import schedules
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.objectives import Objective, make_objective
from diffusion_distillation.runtime.arguments import check_arguments
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import canonical
from diffusion_distillation.training.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True)
class Training:
  """The rounds of a run that share an objective and a compiled step.

  Attributes:
    objective: an Objective.
    config: the config of these rounds.
    step_name: name of the compiled step, 'train_step' or 'distill_step'.
    method: 'teacher', 'student', or a name in `distillation.methods`.
    is_teacher: whether this trains the teacher, which starts from random
      parameters.
  """

  objective: Objective
  config: ConfigDict
  step_name: str
  method: str

  @property
  def is_teacher(self):
    return self.step_name == 'train_step'


def has_students(config):
  """Returns whether a config describes students, not a teacher alone."""
  return bool(config.distillation.objective)


def teacher_config(config):
  """Returns the config that the teacher of a run is trained with.

  It is the config without students, with the values of its section `teacher`.
  """
  teacher = copy.deepcopy(config)
  # Types are ignored, so that a dropout of 0 can become 0.1.
  with teacher.unlocked(), teacher.ignore_type():
    _update(teacher, config.teacher)
    teacher.distillation.objective = None
  return teacher.lock()


def _update(config, changes):
  """Sets the keys of a config that are not None in `changes`."""
  for key, value in changes.items():
    if isinstance(value, ConfigDict):
      _update(config[key], value)
    elif value is not None:
      config[key] = value


def trainings(config):
  """Returns the Trainings of a run, in order; the teacher's comes first.

  A teacher that was trained elsewhere has no Training.

  Raises:
    ValueError: an objective is unknown, or its part of the config is not valid.
  """
  found = []
  students = has_students(config)
  if not students or config.distillation.teacher_checkpoint_path is None:
    teacher = teacher_config(config)
    objective = make_objective(teacher.objective, teacher)
    is_teacher = objective.rounds[0].parent is None
    if students and is_teacher and objective.sampler is not None:
      raise ValueError(
        f'a network that objective={teacher.objective!r} trains is sampled by '
        f'{objective.sampler!r}, and has no steps to distill; choose another '
        'objective for the teacher'
      )
    found.append(Training(objective, teacher, 'train_step', 'teacher'))
  if students:
    for name, of_method in methods(config).items():
      with _naming_method(config, name):
        check_numbers(of_method)
        objective = make_objective(of_method.distillation.objective, of_method)
      named = tuple(_name(each, name) for each in objective.rounds)
      objective = dataclasses.replace(objective, rounds=named)
      found.append(Training(objective, of_method, 'distill_step', name))
  return found


def methods(config):
  """Returns the configs of all ways to distill the teacher, name -> config.

  Without `distillation.methods` there is one, 'student', with the config as it
  is.

  Raises:
    ValueError: a method has a name that cannot be that of a folder, or changes
      a key that is not of its training.
  """
  changes = config.distillation.methods
  if not changes:
    return {'student': config}
  return {name: _method(config, name, keys) for name, keys in changes.items()}


_TAKEN = ('teacher', 'student')  # names of rounds without methods
# Keys that a method may change: those of its training, but not the teacher's.
_OF_METHODS = {
  'distillation': ('objective', 'end_num_steps', 'steps_per_iter'),
  'model': ('mean_loss_weight_type',),
  'train': None,  # all
}


def _method(config, method, changes):
  """Returns the config of one method; see `methods`."""
  where = f'distillation.methods.{method}'
  if not re.fullmatch(r'[a-z][a-z0-9_]*', str(method)) or method in _TAKEN:
    raise ValueError(
      f'{where}: a method has a name of small letters, digits and _, which is '
      "neither 'teacher' nor 'student'"
    )
  config = copy.deepcopy(config)
  with config.ignore_type():
    config.distillation.methods = ConfigDict()
    for section, keys in _mapping(changes, where).items():
      if section not in _OF_METHODS:
        raise ValueError(
          f'{where}.{section} is no section of the training of students; '
          f'known: {", ".join(_OF_METHODS)}'
        )
      known = _OF_METHODS[section] or [
        key for key in config[section] if key != 'num_updates'
      ]
      of_section = _mapping(keys, f'{where}.{section}')
      for key, value in of_section.items():
        if key not in known:
          raise ValueError(
            f'{where}.{section}.{key} is no key of the training of students; '
            f'known: {", ".join(known)}'
          )
        config[section][key] = value
  return config


def _mapping(value, where):
  if not hasattr(value, 'items'):
    raise ValueError(f'{where} must be a dict of keys, got {value!r}')
  return value


def _name(each, method):
  """Returns a Round of a method, whose name begins with that of the method."""

  def renamed(name):
    return re.sub('^student_', f'{method}_', name) if name else name

  return dataclasses.replace(
    each, name=renamed(each.name), parent=renamed(each.parent)
  )


def rounds(config):
  """Returns the Rounds of a run, in order.

  Raises:
    ValueError: as in `trainings`.
  """
  return [
    r for training in trainings(config) for r in training.objective.rounds
  ]


def teacher_num_steps(config):
  """Returns the sampling steps of the teacher that students begin with.

  For a teacher without students, these are its default sampling steps.
  """
  if has_students(config):
    return config.distillation.start_num_steps
  return teacher_config(config).model.eval_sampling_num_steps


def spell_samplers(config):
  """Gives the samplers of a config their canonical spelling.

  An invalid spelling stays, for `check` to report.
  """
  with contextlib.suppress(ValueError):
    config.sampler = canonical(config.sampler)
    for key in ('samplers', 'student_samplers'):
      config.eval[key] = tuple(map(canonical, config.eval[key]))


def check(config, open_data=False):
  """Checks a config, and returns its Dataset and its Denoiser.

  Args:
    config: config of a run.
    open_data: whether the data set must be present.

  Raises:
    UserError: the config is not valid; the message names the key.
  """
  with _naming_the_config():
    dataset = load_dataset(config.dataset.name, config.dataset.args)
    _check_schedules(config.model)
    _check_samplers(config)
    check_numbers(config)
    _check_keys_of_teachers(config)
    found = trainings(config)

  def build(model):
    return build_denoiser(model, dataset.image_shape, dataset.num_classes)

  # Students are checked first, since the teacher shares their keys.
  for training in reversed(found):
    in_teacher = has_students(config) and training.is_teacher
    where = 'section `teacher`: ' if in_teacher else ''
    with _naming_the_config(where), _naming_method(config, training.method):
      _check_training(training)
      build(training.config.model)
  if open_data:
    len(dataset.train)
  return dataset, build(config.model)


@contextlib.contextmanager
def _naming_method(config, method):
  """Puts the name of a method before errors, if the config has methods."""
  try:
    yield
  except ValueError as error:
    if not config.distillation.methods:
      raise
    raise ValueError(f'distillation.methods.{method}: {error}') from error


@contextlib.contextmanager
def _naming_the_config(where=''):
  """Turns the ValueErrors of checks into errors of the config."""
  try:
    yield
  except ValueError as error:
    raise UserError(f'config: {where}{error}') from error


def _check_training(training):
  """Raises ValueError unless a Training can be carried out."""
  check_numbers(training.config)
  make_optimizer(training.config.train)
  _check_batch(training.config.train)
  for each in training.objective.rounds:
    if training.is_teacher and each.parent is not None:
      raise ValueError(
        f'objective={each.objective!r} is an objective of students; set '
        'distillation.objective to it'
      )
    if not training.is_teacher and each.parent is None:
      raise ValueError(
        f'distillation.objective={each.objective!r} is an objective of '
        'teachers; set objective to it'
      )


# Smallest and largest value of each number.
_BOUNDS = {
  'seed': (0, 2**32 - 1),
  'train.batch_size': (1, 2**20),
  'train.accumulate': (1, None),
  'train.num_updates': (1, 2**31 - 1),
  'train.learning_rate': (0, 1e6),
  'train.learning_rate_warmup_steps': (0, 2**31 - 1),
  'train.learning_rate_anneal_steps': (1, 2**31 - 1),
  'train.weight_decay': (0, 1e6),
  'train.ema_decay': (0, 1 - 1e-9),
  'train.grad_clip': (1e-9, None),
  'train.substeps': (1, 2**20),
  'train.log_loss_every_steps': (1, None),
  'train.checkpoint_every_secs': (0, None),
  'train.eval_every_steps': (1, None),
  'model.train_num_steps': (0, MAX_NUM_STEPS),
  'model.eval_sampling_num_steps': (1, MAX_NUM_STEPS),
  'model.theta_0': (1e-9, 1e3),
  'distillation.start_num_steps': (2, MAX_NUM_STEPS),
  'distillation.end_num_steps': (1, MAX_NUM_STEPS),
  'eval.seeds': (1, 1000),
  'eval.num_samples': (6, 10_000_000),
  'eval.batch_size': (1, 2**20),
  'eval.max_num_steps': (1, MAX_NUM_STEPS),
  'eval.max_nfe': (1, None),
  'eval.solution_num_steps': (1, MAX_NUM_STEPS),
}
# Numbers that need not be integers.
_FLOATS = (
  'train.learning_rate',
  'train.weight_decay',
  'train.ema_decay',
  'train.grad_clip',
  'train.checkpoint_every_secs',
  'model.theta_0',
)
# Numbers that may be None.
_OPTIONAL = (
  'train.num_updates',
  'train.learning_rate_anneal_steps',
  'train.eval_every_steps',
  'model.train_num_steps',
  'model.eval_sampling_num_steps',
  'eval.max_num_steps',
  'eval.max_nfe',
  'eval.solution_num_steps',
)


def check_numbers(config):
  """Raises ValueError for a number that is out of bounds."""
  for key, (low, high) in _BOUNDS.items():
    section = config
    *sections, name = key.split('.')
    for each in sections:
      section = section.get(each) or {}
    value = section.get(name)
    if value is None and (key in _OPTIONAL or name not in section):
      continue
    kinds = (int, float) if key in _FLOATS else (int,)
    if value is not None and type(value) not in kinds:  # a bool is an int
      kind = 'a number' if key in _FLOATS else 'an integer'
      raise ValueError(f'{key} must be {kind}, got {value!r}')
    # The condition is written so that it also refuses nan.
    if not (value is not None and low <= value <= (high or math.inf)):
      limit = f'at least {low}' if high is None else f'{low} to {high}'
      raise ValueError(f'{key} must be {limit}, got {value}')


# Keys that only a teacher has -> what students have instead.
_KEYS_OF_TEACHERS = {
  'train.num_updates': ', or distillation.steps_per_iter for their rounds',
  'model.train_num_steps': '',
  'model.eval_sampling_num_steps': '',
}


def _check_keys_of_teachers(config):
  """Raises ValueError if students have such a key, or a teacher lacks one."""
  path = config.distillation.teacher_checkpoint_path
  teacher = teacher_config(config)
  for key, instead in _KEYS_OF_TEACHERS.items():
    section, name = key.split('.')
    if not has_students(config):
      if teacher[section][name] is None:
        raise ValueError(f'{key} is not set')
    elif config[section][name] is not None:
      raise ValueError(
        f'{key} does not apply to students; set teacher.{key}{instead}'
      )
    elif path is None and teacher[section][name] is None:
      raise ValueError(
        f'teacher.{key} is not set; a teacher that is trained here needs it. '
        'To use another, set distillation.teacher_checkpoint_path'
      )


def _check_schedules(model):
  """Raises ValueError if a noise schedule or one of its keys is wrong."""
  get_schedule = schedules.get_logsnr_schedule
  for name in ('train_logsnr_schedule', 'eval_logsnr_schedule'):
    check_arguments(get_schedule, model[name], f'model.{name}.')
    try:
      get_schedule(**{'name': None, **model[name]})
    except ValueError as error:
      raise ValueError(f'model.{name}: {error}') from error


def _check_samplers(config):
  settings = config.eval
  for spelling in (
    config.sampler,
    *settings.samplers,
    *settings.student_samplers,
  ):
    canonical(spelling)
  for num_steps in settings.num_steps:
    if type(num_steps) is not int or not 1 <= num_steps <= MAX_NUM_STEPS:
      raise ValueError(
        f'eval.num_steps must be ints of 1 to {MAX_NUM_STEPS}, got '
        f'{num_steps!r}'
      )


def _check_batch(train):
  devices, parts = jax.device_count(), train.accumulate
  unit = devices * parts
  if train.batch_size % unit:
    raise ValueError(
      f'train.batch_size={train.batch_size} must be a multiple of {devices} '
      f'devices x train.accumulate={parts}; use '
      f'{max(1, train.batch_size // unit) * unit}'
    )
