"""What a config means: its teacher, its rounds, and whether it makes sense."""

import copy
import dataclasses
from collections.abc import Mapping

import jax

from diffusion_distillation.core import losses, schedules
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.errors import UserError
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.samplers import METHODS
from diffusion_distillation.samplers.ancestral import gamma_of
from diffusion_distillation.training.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True)
class Round:
  """One round of distillation: to how many steps, in how many updates."""

  num_steps: int
  num_updates: int

  @property
  def name(self):
    return f'student_{self.num_steps:05}'


def rounds(distillation):
  """Returns the Rounds of Algorithm 2, from start_num_steps / 2 downwards.

  Args:
    distillation: config.distillation. `steps_per_iter` is a number of updates,
      or a mapping from each student's step count to its own.

  Raises:
    ValueError: the step counts cannot be halved into each other, or a round has
      no number of updates.
  """
  start, end = distillation.start_num_steps, distillation.end_num_steps
  num_steps, counts = start, []
  while end >= 1 and num_steps % 2 == 0 and num_steps > end:
    num_steps //= 2
    counts.append(num_steps)
  if num_steps != end or not counts:
    raise ValueError(
      f'distillation.start_num_steps={start} must be a power-of-two multiple '
      f'of distillation.end_num_steps={end}, such as {max(end, 1) * 8}'
    )
  return [Round(n, _updates(distillation.steps_per_iter, n)) for n in counts]


def _updates(steps_per_iter, num_steps):
  updates = steps_per_iter
  if isinstance(updates, Mapping):
    by_steps = {int(steps): updates[steps] for steps in updates}
    if num_steps not in by_steps:
      raise ValueError(
        'distillation.steps_per_iter says nothing of the round to '
        f'{num_steps} steps; add a key {num_steps}, or give one number for all'
      )
    updates = by_steps[num_steps]
  if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
    raise ValueError(
      'distillation.steps_per_iter must be a positive number of updates, or a '
      f'mapping from step counts to them, got {updates!r}'
    )
  return updates


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


def check(config):
  """Returns the Dataset and the Denoiser of a config that makes sense.

  Raises:
    UserError: it does not; the line names the key.
  """
  try:
    for part in {id(c): c for c in (config, teacher_config(config))}.values():
      _check_positive(part)
      make_optimizer(part.train)
      losses.weight(part.model.mean_loss_weight_type, 0.0)
      schedules.get_logsnr_schedule(**part.model.train_logsnr_schedule)
      schedules.get_logsnr_schedule(**part.model.eval_logsnr_schedule)
      gamma_of(part.model.logvar_type)
      _check_batch(part.train.batch_size)
    if config.sampler not in METHODS:
      known = ', '.join(METHODS)
      raise ValueError(f'unknown sampler {config.sampler!r}; known: {known}')
    if config.distillation is not None:
      rounds(config.distillation)
    dataset = load_dataset(config.dataset.name, config.dataset.args)
    denoiser = build_denoiser(
      config.model, dataset.image_shape, dataset.num_classes
    )
    denoiser.param_shapes()
  except (ValueError, TypeError) as error:
    raise UserError(f'config: {error}') from error
  return dataset, denoiser


_AT_LEAST = {
  'seed': 0,
  'train.batch_size': 1,
  'train.num_updates': 1,
  'train.learning_rate': 0,
  'train.learning_rate_warmup_steps': 0,
  'train.learning_rate_anneal_steps': 1,
  'train.weight_decay': 0,
  'train.ema_decay': 0,
  'train.grad_clip': 0,
  'train.substeps': 1,
  'train.log_loss_every_steps': 1,
  'train.checkpoint_every_secs': 0,
  'train.eval_every_steps': 1,
  'model.args.num_res_blocks': 1,
  'model.args.emb_ch': 1,
  'model.args.dropout': 0,
  'model.train_num_steps': 0,
  'model.eval_sampling_num_steps': 1,
  'eval.num_samples': 4,
  'eval.batch_size': 1,
}


def _check_positive(config):
  """Raises ValueError for a number that is too small to mean anything."""
  for key, least in _AT_LEAST.items():
    section, _, name = key.rpartition('.')
    holder = config
    for part in filter(None, section.split('.')):
      holder = holder[part]
    value = holder.get(name)
    # Written so that nan is refused too.
    if value is not None and not value >= least:
      raise ValueError(f'{key} must be at least {least}, got {value}')
  if config.model.args.dropout >= 1 or config.train.ema_decay >= 1:
    raise ValueError('model.args.dropout and train.ema_decay must be below 1')


def _check_batch(batch_size):
  devices = jax.device_count()
  if batch_size % devices:
    raise ValueError(
      f'train.batch_size={batch_size} cannot be split over {devices} devices; '
      f'use {max(1, batch_size // devices) * devices}'
    )
