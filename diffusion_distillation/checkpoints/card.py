"""Cards: what a checkpoint says of its weights, so that none is a riddle."""

from diffusion_distillation.core.parameterization import canonical
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import versions

MOST_STEPS = 2**20  # beyond, float32 cannot tell the times of steps apart

# What every card says; `training` is added when a checkpoint is saved, and is
# None of weights that were not trained here.
KEYS = (
  'num_steps',
  'sampler',
  'mean_type',
  'args',
  'logsnr_schedule',
  'clip',
  'logvar_type',
  'image_shape',
  'num_classes',
  'dataset',
  'parent',
  'config',
  'versions',
  'training',
)


def card_of(config, dataset, num_steps=None, parent=None):
  """Returns what the weights of a training are, as JSON values.

  Args:
    config: of the training.
    dataset: its Dataset.
    num_steps: sampling steps of the weights.
    parent: path of the checkpoint they are distilled from; None is a teacher.
  """
  model = config.model.to_dict()
  return {
    'num_steps': num_steps,
    'sampler': config.sampler if parent is None else 'ddim',
    'mean_type': canonical(model['mean_type']),
    'args': model['args'],
    'logsnr_schedule': model['eval_logsnr_schedule'],
    'clip': model['eval_clip_denoised'],
    'logvar_type': model['logvar_type'],
    'image_shape': list(dataset.image_shape),
    'num_classes': dataset.num_classes,
    'dataset': config.dataset.to_dict(),
    'parent': parent,
    'config': config.to_dict(),
    'versions': versions(),
  }


def teacher_steps(config):
  """Returns the sampling steps that a config's teacher is meant for."""
  if config.distillation is None:
    return config.model.eval_sampling_num_steps
  return config.distillation.start_num_steps


def check_keys(card, path):
  """Returns a card that says all it must.

  Raises:
    UserError: it does not, or says what makes no sense.
  """
  said = card if isinstance(card, dict) else {}
  missing = [key for key in KEYS if key not in said]
  if missing:
    raise UserError(f'the card of {path} has no {missing[0]}: not ours')
  for key, makes_sense in _SENSE.items():
    if not makes_sense(card[key]):
      raise UserError(
        f'the card of {path} is damaged or not ours: its {key} is '
        f'{str(card[key])[:200]!r}'
      )
  return card


def _is_count(value, most=None):
  """Returns whether a value is an int of 1 to `most`."""
  return type(value) is int and 1 <= value <= (most or value)


def _is_mapping(value, *sections):
  """Returns whether it is a mapping, and so is what it has of `sections`."""
  return isinstance(value, dict) and all(
    isinstance(value.get(name, {}), dict) for name in sections
  )


# What each value of a card must be, for what is done with it not to crash.
_SENSE = {
  'num_steps': lambda value: _is_count(value, MOST_STEPS),
  'sampler': lambda value: isinstance(value, str),
  'mean_type': lambda value: isinstance(value, str),
  'args': _is_mapping,
  'logsnr_schedule': _is_mapping,
  'clip': lambda value: isinstance(value, bool),
  'logvar_type': lambda value: isinstance(value, str),
  'image_shape': lambda value: (
    isinstance(value, list) and len(value) == 3 and all(map(_is_count, value))
  ),
  'num_classes': _is_count,
  'dataset': _is_mapping,
  'parent': lambda value: value is None or isinstance(value, str),
  'config': lambda value: value is None or _is_mapping(value, 'model', 'eval'),
  'training': lambda value: (
    value is None
    or (
      _is_mapping(value)
      and all(type(value.get(k)) is int for k in ('updates', 'num_updates'))
    )
  ),
}
