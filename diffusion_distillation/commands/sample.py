"""--mode=sample: draws images from a checkpoint."""

import numpy as np

from diffusion_distillation.commands import inputs
from diffusion_distillation.generation.sample_files import (
  parse_seeds,
  write_samples,
)
from diffusion_distillation.runtime.errors import UserError


def sample(
  checkpoint,
  out,
  seeds='0-63',
  class_=None,
  sampler=None,
  num_steps=None,
  config=None,
):
  """Draws one image per seed and writes them.

  Args:
    checkpoint: path of a checkpoint.
    out: path of a .npz, or of a folder of PNGs.
    seeds: text such as '0-63' or '1,5,9'.
    class_: text such as '3' or '1,5', the classes to draw in turn; None draws
      all classes in turn.
    sampler: of the checkpoint by default.
    num_steps: sampling steps, of the checkpoint by default.
    config: describes the network of a file that has no card.

  Raises:
    UserError: the checkpoint cannot be sampled so, or `out` not be written.
  """
  seeds = parse_seeds(seeds)
  checkpoint = inputs.load_checkpoint(checkpoint, config)
  inputs.check_card(checkpoint)
  method, num_steps = inputs.sampling_of(checkpoint.card, sampler, num_steps)
  write_samples(
    checkpoint,
    seeds=seeds,
    labels=labels_of(seeds, class_, checkpoint.card['num_classes']),
    out=out,
    method=method,
    num_steps=num_steps,
  )
  print(f'wrote {len(seeds)} samples to {out}')


def labels_of(seeds, class_, num_classes):
  """Returns the class of each seed, (N,) int32.

  A seed's class depends on no other seed: it is the seed modulo the number of
  classes that are drawn.

  Args:
    seeds: (N,) ints.
    class_: text such as '3' or '1,5', or None for all classes.
    num_classes: of the checkpoint; 1 where it is unconditional.

  Raises:
    UserError: the text does not name classes of the checkpoint.
  """
  classes = list(range(num_classes))
  if class_ is not None:
    if num_classes == 1:
      raise UserError(f'--class={class_}: this checkpoint has no classes')
    known = {str(number): number for number in classes}
    classes = [known.get(part.strip()) for part in class_.split(',')]
    if None in classes:
      raise UserError(
        f'--class={class_} must be one or more of 0 to {num_classes - 1}, such '
        'as 3 or 1,5'
      )
  return np.asarray(classes, np.int32)[seeds % len(classes)]
