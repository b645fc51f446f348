"""Teachers that were trained elsewhere."""

import json

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.core.parameterization import canonical
from diffusion_distillation.runtime.errors import UserError


def find_teacher(path, config, denoiser):
  """Returns the step folder of the checkpoint to distill, once it fits.

  Args:
    path: of the checkpoint, or None.
    config: of the students, checked.
    denoiser: theirs.

  Raises:
    UserError: there is none at that path, or it is another network's.
  """
  if path is None:
    return None
  teacher = checkpoints.load(path, denoiser.param_shapes(), config)
  training = teacher.card['training']
  if training and training['updates'] < training['num_updates']:
    raise UserError(
      f'the teacher {teacher.path} has had {training["updates"]} of '
      f'{training["num_updates"]} updates; finish its training first'
    )
  num_steps = teacher.card['num_steps']
  start = config.distillation.start_num_steps
  if teacher.card['parent'] is not None and num_steps != start:
    raise UserError(
      f'the teacher {teacher.path} was distilled to {num_steps} steps and '
      f'knows no others; set distillation.start_num_steps={num_steps}'
    )
  model = config.model.to_dict()
  trained = (teacher.card['config'] or {}).get('model', {})
  # What the shapes of the weights do not tell.
  theirs = {
    'mean_type': teacher.card['mean_type'],
    'num_classes': teacher.card['num_classes'],
    'train_logsnr_schedule': trained.get('train_logsnr_schedule'),
    **teacher.card['args'],
  }
  ours = {
    'mean_type': canonical(model['mean_type']),
    'num_classes': denoiser.network.num_classes,
    'train_logsnr_schedule': model['train_logsnr_schedule'],
    **model['args'],
  }
  for name, value in json.loads(json.dumps(ours)).items():
    if name not in ('dropout', 'dtype', 'remat') and theirs.get(name) != value:
      raise UserError(
        f'the teacher {teacher.path} has {name} {theirs.get(name)}, the config '
        f'{value}; they must agree'
      )
  return str(teacher.path)
