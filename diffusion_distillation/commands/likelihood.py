"""--mode=likelihood: measures how probable real images are to a teacher."""

import json

from diffusion_distillation.commands import inputs
from diffusion_distillation.evaluation.likelihood import (
  DEQUANTIZATIONS,
  measure,
)
from diffusion_distillation.objectives import OF_TEACHERS
from diffusion_distillation.runtime.errors import UserError

SPLITS = 'heldout', 'train'


def likelihood(
  checkpoint,
  config=None,
  split='heldout',
  num_images=None,
  num_steps=None,
  dequantization='centered',
):
  """Prints the bits per dimension of images and their bound as JSON.

  Args:
    checkpoint: path of a checkpoint of a teacher.
    config: config of the data; a checkpoint of this program needs none.
    split: 'heldout' or 'train'.
    num_images: images to measure, evenly spaced; None takes all of the split.
    num_steps: steps of the bound; None takes the checkpoint's.
    dequantization: how bytes become densities, a name in DEQUANTIZATIONS.

  Raises:
    UserError: the checkpoint has no likelihood, or an argument is not valid.
  """
  for flag, value, known in (
    ('split', split, SPLITS),
    ('dequantization', dequantization, DEQUANTIZATIONS),
  ):
    if value not in known:
      raise UserError(f'--{flag}={value} must be {" or ".join(known)}')
  path = checkpoint
  checkpoint = inputs.load_checkpoint(path, config)
  card = checkpoint.card
  if card.objective.partition(':')[0] not in OF_TEACHERS:
    raise UserError(
      f'{path} was trained by {card.objective}: its x_hat is where a step '
      'lands, not the mean of the data, so it has no likelihood; give a teacher'
    )
  noise = (card.config or {}).get('model', {}).get('noise', 'gaussian')
  if noise != 'gaussian':
    raise UserError(
      f'{path} was trained with {noise} noise, but the likelihood is only '
      'known for Gaussian noise; give a teacher that was trained with that'
    )
  config, dataset = inputs.data_of(card, path, config)
  if card.num_classes not in (1, dataset.num_classes):
    raise UserError(
      f'{path} has {card.num_classes} classes, but the data set of the config '
      f'has {dataset.num_classes}'
    )
  examples = getattr(dataset, split)
  num_images = len(examples) if num_images is None else num_images
  if not 2 <= num_images <= len(examples):
    raise UserError(
      f'--num_images={num_images} must be from 2 to {len(examples)}, the '
      f'number of images of {dataset.name} {split}'
    )
  figures = measure(
    checkpoint,
    examples,
    num_images,
    batch_size=config.eval.batch_size,
    num_steps=num_steps or card.num_steps,
    dequantization=dequantization,
  )
  about = {
    'dataset': dataset.name,
    'split': split,
    'grey_levels': 256,
    'dequantization': dequantization,
    'given': 'label' if card.num_classes > 1 else None,
  }
  print(json.dumps({**figures, **about}, indent=2))
