"""What a config means: its teacher, and whether it makes sense."""

import copy

import jax

from diffusion_distillation.checkpoints.card import MOST_STEPS
from diffusion_distillation.core import losses, schedules
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.objectives.rounds import rounds
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import METHODS
from diffusion_distillation.samplers.ancestral import gamma_of
from diffusion_distillation.training.optimizer import make_optimizer


def teacher_config(config):
  """Returns the config of the teacher that a distill config describes.

  It is the config itself with what its section `teacher` changes; of a base
  config, which has none, the config as it is.
  """
  teacher = copy.deepcopy(config)
  if config.teacher is None:
    return teacher
  with teacher.unlocked():
    teacher.update(config.teacher.to_dict())
    teacher.teacher = None
    teacher.distillation = None
  return teacher.lock()


def check(config, open_data=False):
  """Returns the Dataset and the Denoiser of a config that makes sense.

  Args:
    config: of a run.
    open_data: whether the data set must be there.

  Raises:
    UserError: it does not; the line names the key.
  """
  try:
    dataset = load_dataset(config.dataset.name, config.dataset.args)
    for part in _trainings(config):
      check_numbers(part)
      make_optimizer(part.train)
      losses.weight(part.model.mean_loss_weight_type, 0.0)
      schedules.get_logsnr_schedule(**part.model.train_logsnr_schedule)
      schedules.get_logsnr_schedule(**part.model.eval_logsnr_schedule)
      gamma_of(part.model.logvar_type)
      _check_batch(part.train)
      if part.distillation is not None:
        rounds(part.distillation)
      elif part.train.num_updates is None:
        raise ValueError(
          'train.num_updates, the length of training, is not set'
        )
    _check_samplers(config)
    denoiser = build_denoiser(
      config.model, dataset.image_shape, dataset.num_classes
    )
    denoiser.param_shapes()
    if open_data:
      len(dataset.train)
  except (ValueError, TypeError) as error:
    raise UserError(f'config: {error}') from error
  except (KeyError, AttributeError) as error:
    raise UserError(f'config: it lacks the key {error}') from error
  return dataset, denoiser


def _trainings(config):
  """Returns the configs of all that is trained: teacher, students, or both."""
  if config.distillation is None:
    return [config]
  if config.distillation.teacher_checkpoint_path is not None:
    return [config]
  if config.teacher is None:
    raise ValueError(
      'distillation.teacher_checkpoint_path is not set, and there is no '
      'section teacher that says how to train one'
    )
  return [config, teacher_config(config)]


# The least and the most that each number may be.
_BOUNDS = {
  'seed': (0, 2**32 - 1),
  'train.batch_size': (1, None),
  'train.accumulate': (1, None),
  'train.num_updates': (1, 2**31 - 1),
  'train.learning_rate': (0, 1e6),
  'train.learning_rate_warmup_steps': (0, 2**31 - 1),
  'train.learning_rate_anneal_steps': (1, 2**31 - 1),
  'train.weight_decay': (0, 1e6),
  'train.ema_decay': (0, 1 - 1e-9),
  'train.grad_clip': (1e-9, None),
  'train.substeps': (1, None),
  'train.log_loss_every_steps': (1, None),
  'train.checkpoint_every_secs': (0, None),
  'train.eval_every_steps': (1, None),
  'model.args.ch': (4, 2**16),
  'model.args.emb_ch': (1, 2**16),
  'model.args.num_res_blocks': (1, None),
  'model.args.num_heads': (1, None),
  'model.args.head_dim': (1, None),
  'model.args.dropout': (0, 0.999),
  'model.train_num_steps': (0, MOST_STEPS),
  'model.eval_sampling_num_steps': (1, MOST_STEPS),
  'distillation.start_num_steps': (2, MOST_STEPS),
  'distillation.end_num_steps': (1, MOST_STEPS),
  'eval.num_samples': (4, 10_000_000),
  'eval.batch_size': (1, None),
  'eval.max_num_steps': (1, MOST_STEPS),
}


def check_numbers(config):
  """Raises ValueError for a number that is out of bounds."""
  for key, (least, most) in _BOUNDS.items():
    holder = config
    *sections, name = key.split('.')
    for section in sections:
      holder = (holder or {}).get(section)
    value = (holder or {}).get(name)
    if value is None:
      continue
    # Written so that nan is refused, too.
    if not (value >= least and (most is None or value <= most)):
      limit = f'at least {least}' if most is None else f'{least} to {most}'
      raise ValueError(f'{key} must be {limit}, got {value}')


def _check_samplers(config):
  settings = config.eval
  for method in (
    config.sampler,
    *settings.samplers,
    *settings.student_samplers,
  ):
    if method not in METHODS:
      known = ', '.join(METHODS)
      raise ValueError(f'unknown sampler {method!r}; known: {known}')
  for num_steps in settings.num_steps:
    if not isinstance(num_steps, int) or not 1 <= num_steps <= MOST_STEPS:
      raise ValueError(
        f'eval.num_steps must be ints of 1 to {MOST_STEPS}, got {num_steps!r}'
      )


def _check_batch(train):
  devices, parts = jax.device_count(), train.accumulate
  least = devices * parts
  if train.batch_size % least:
    raise ValueError(
      f'train.batch_size={train.batch_size} must be a multiple of {devices} '
      f'devices x train.accumulate={parts}; use '
      f'{max(1, train.batch_size // least) * least}'
    )
