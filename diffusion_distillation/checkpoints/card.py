"""Cards: what a checkpoint says about its weights."""

import dataclasses
import json
from typing import Any

from diffusion_distillation.core import parameterization, schedules
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import versions
from diffusion_distillation.samplers import canonical, make_sampler

# With more steps, neighbouring times would be equal in float32.
MAX_NUM_STEPS = 2**20


@dataclasses.dataclass(frozen=True)
class Card:
  """What weights are: their network, how to sample them, where they are from.

  All values but `image_shape` are JSON values.

  Attributes:
    num_steps: number of sampling steps that the weights are made for.
    sampler: spelling of the sampler that they are made for, such as 'ddim' or
      'ancestral:gamma=0.3'.
    model: {'name', 'mean_type', 'args'} of the network, as in config.model.
    logsnr_schedule: {'name', ...} of the noise schedule in sampling.
    clip: whether sampling clips x_hat to [-1, 1].
    image_shape: (H, W, C).
    num_classes: number of classes; 1 is unconditional.
    dataset: config.dataset of the training.
    objective: name of the objective of the training.
    parent: path of the checkpoint that was distilled; None for a teacher.
    parent_checksum: `weights_checksum` of the parent; None if not known.
    updates: number of updates made; None for weights of another program.
    num_updates: length of the training in updates; None as in `updates`.
    config: the whole config of the training; None if not known.
    versions: versions of the packages that the training used, name -> version.
  """

  num_steps: int
  sampler: str
  model: dict[str, Any]
  logsnr_schedule: dict[str, Any]
  clip: bool
  image_shape: tuple[int, int, int]
  num_classes: int
  dataset: dict[str, Any]
  objective: str
  parent: str | None
  parent_checksum: str | None
  updates: int | None
  num_updates: int | None
  config: dict[str, Any] | None
  versions: dict[str, str]

  @classmethod
  def from_json(cls, values, path):
    """Returns the Card that JSON values describe.

    The values may come from an untrusted file: they are checked, and no file
    that they name is opened.

    Args:
      values: JSON values, as `to_json` returns them.
      path: path of the checkpoint, for error messages.

    Raises:
      UserError: a key is missing, or its value is not valid.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    values = values if isinstance(values, dict) else {}
    for name in names:
      if name not in values:
        raise UserError(
          f'the card of {path} has no {name}: it was written by another '
          'program, or an earlier version of this one'
        )
      if not _IS_VALID[name](values[name]):
        raise UserError(
          f'the card of {path} is not valid: its {name} is '
          f'{str(values[name])[:200]!r}'
        )
    card = cls(**{name: values[name] for name in names})
    card = dataclasses.replace(card, image_shape=tuple(card.image_shape))
    card._check_names(path)
    return card

  def _check_names(self, path):
    """Raises UserError unless sampler, schedule and network can be built."""
    parts = {
      'sampler': lambda: make_sampler(self.sampler),
      'logsnr_schedule': self.schedule,
      'model': lambda: self.denoiser().param_shapes(),
    }
    for name, build in parts.items():
      try:
        build()
      except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
          f'the card of {path} is not valid: its {name} cannot be used: '
          f'{files.reason(error)}'
        ) from error

  def to_json(self):
    """Returns the card as JSON values."""
    return {**dataclasses.asdict(self), 'image_shape': list(self.image_shape)}

  def replace(self, **changes):
    """Returns a copy with changes."""
    return dataclasses.replace(self, **changes)

  @property
  def is_finished(self):
    """Whether all updates were made, or their number is not known."""
    counts = (self.updates, self.num_updates)
    return None in counts or self.updates >= self.num_updates

  def denoiser(self):
    """Returns the Denoiser whose parameters the weights are."""
    return build_denoiser(self.model, self.image_shape, self.num_classes)

  def schedule(self):
    """Returns the noise schedule in sampling, t -> logsnr."""
    return schedules.get_logsnr_schedule(**self.logsnr_schedule)


def make_card(
  config,
  dataset,
  *,
  num_steps,
  sampler,
  objective,
  parent=None,
  parent_checksum=None,
):
  """Returns the Card of the weights of a training, before its first update.

  Args:
    config: config of the training, checked.
    dataset: Dataset of the config.
    num_steps: see Card.
    sampler: see Card; in any spelling.
    objective: see Card.
    parent: see Card.
    parent_checksum: see Card.

  Raises:
    ValueError: the sampler is unknown.
  """
  model = config.model.to_dict()
  values = {
    'model': {
      'name': model['name'],
      'mean_type': parameterization.canonical(model['mean_type']),
      'args': model['args'],
    },
    'logsnr_schedule': model['eval_logsnr_schedule'],
    'dataset': config.dataset.to_dict(),
    'config': config.to_dict(),
  }
  return Card(
    num_steps=num_steps,
    sampler=canonical(sampler),
    clip=model['eval_clip_denoised'],
    image_shape=tuple(dataset.image_shape),
    num_classes=dataset.num_classes,
    objective=objective,
    parent=parent,
    parent_checksum=parent_checksum,
    updates=None,
    num_updates=None,
    versions=versions(),
    # Tuples become lists, so that a card equals itself after JSON.
    **json.loads(json.dumps(values)),
  )


def _is_count(value, least=1, most=2**31 - 1):
  return type(value) is int and least <= value <= most


def _is_updates(value):
  return value is None or _is_count(value, least=0)


def _is_shape(value):
  return (
    isinstance(value, list)
    and len(value) == 3
    and all(_is_count(size, most=2**16) for size in value)
  )


def _is_model(value):
  return isinstance(value, dict) and all(
    isinstance(value.get(name), kind)
    for name, kind in {'name': str, 'mean_type': str, 'args': dict}.items()
  )


def _is_config(value):
  return value is None or (
    isinstance(value, dict)
    and all(isinstance(value.get(n, {}), dict) for n in ('model', 'eval'))
  )


def _has_type(kind):
  return lambda value: isinstance(value, kind)


# key -> whether a value has the type and the range that its users expect.
_IS_VALID = {
  'num_steps': lambda value: _is_count(value, most=MAX_NUM_STEPS),
  'sampler': _has_type(str),
  'model': _is_model,
  'logsnr_schedule': _has_type(dict),
  'clip': _has_type(bool),
  'image_shape': _is_shape,
  'num_classes': _is_count,
  'dataset': _has_type(dict),
  'objective': _has_type(str),
  'parent': _has_type(str | None),
  'parent_checksum': _has_type(str | None),
  'updates': _is_updates,
  'num_updates': _is_updates,
  'config': _is_config,
  'versions': _has_type(dict),
}
