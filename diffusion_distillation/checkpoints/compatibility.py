"""Whether a checkpoint can be the teacher of a config's students."""

import dataclasses

from diffusion_distillation.checkpoints import checkpoint
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.runtime.errors import UserError


def load_teacher(path, config, dataset):
  """Returns the Checkpoint to distill if it fits the students of a config.

  Args:
    path: path of the checkpoint.
    config: checked config of the students.
    dataset: Dataset of the config.

  Raises:
    UserError: there is no checkpoint, its training is not finished, or its
      network or settings differ from those of the students.
  """
  teacher = checkpoint.load(path, config)
  card, start = teacher.card, config.distillation.start_num_steps
  if not card.is_finished:
    raise UserError(
      f'the teacher {teacher.path} has had {card.updates} of '
      f'{card.num_updates} updates; finish its training first'
    )
  if card.parent is not None and card.num_steps != start:
    raise UserError(
      f'the teacher {teacher.path} was distilled to {card.num_steps} sampling '
      'steps and cannot be used with another number; set '
      f'distillation.start_num_steps={card.num_steps}'
    )
  students = make_card(
    config,
    dataset,
    num_steps=start,
    sampler=config.sampler,
    objective=config.distillation.objective,
  )
  theirs, ours = _settings(card), _settings(students)
  for name, value in ours.items():
    if theirs.get(name) != value:
      raise UserError(
        f'the teacher {teacher.path} has {name}={theirs.get(name)} and the '
        f'config {value}; they must be the same'
      )
  return teacher


def _settings(card):
  """Returns what teacher and students must have in common, name -> value."""
  trained = (card.config or {}).get('model', {})
  denoiser = card.denoiser()
  network = denoiser.network
  # Fields, since a card may leave out arguments at their default. Every Flax
  # module has the fields `parent` and `name`.
  names = {field.name for field in dataclasses.fields(network)}
  names -= {'parent', 'name', *network.FREE_ARGS}
  return {
    'image_shape': card.image_shape,
    'num_classes': card.num_classes,
    'model.name': card.model['name'],
    'model.mean_type': denoiser.mean_type,
    'model.noise': trained.get('noise', 'gaussian'),  # older cards have none
    'model.train_logsnr_schedule': trained.get('train_logsnr_schedule'),
    **{f'model.args.{name}': getattr(network, name) for name in sorted(names)},
  }
