"""--mode=sample: draws images from a checkpoint."""

from diffusion_distillation.commands import inputs
from diffusion_distillation.generation.generator import Generator, condition_of
from diffusion_distillation.generation.image_files import (
  check_writable,
  parse_seeds,
  write_samples,
)
from diffusion_distillation.runtime.log import Progress

_BATCH_SIZE = 512  # images drawn at once


def sample(
  checkpoint,
  out,
  seeds='0-63',
  class_=None,
  sampler=None,
  grid=None,
  num_steps=None,
  config=None,
):
  """Draws one image per seed and writes them.

  Args:
    checkpoint: path of a checkpoint.
    out: path of a .npz, of a .png, or of a folder of PNGs.
    seeds: text such as '0-63' or '1,5,9'.
    class_: text such as '3' or '1,5', the classes to draw in turn by the number
      of the seed; None draws all classes in turn.
    sampler: spelling of a sampler; None takes the checkpoint's own.
    grid: spelling of a time grid; None takes the sampler's.
    num_steps: sampling steps; None takes the checkpoint's own.
    config: describes the network of a file that has no card.

  Raises:
    UserError: the checkpoint cannot be sampled in this way, or `out` cannot be
      written.
  """
  seeds = parse_seeds(seeds)
  check_writable(out)
  checkpoint = inputs.load_checkpoint(checkpoint, config)
  card = checkpoint.card
  label = inputs.parse_classes(class_, card.num_classes)
  sampler, num_steps = inputs.sampling_of(card, sampler, num_steps, grid)
  images = Generator(card, _BATCH_SIZE).images(
    checkpoint.weights,
    seeds,
    num_steps=num_steps,
    sampler=sampler,
    label=label,
    progress=Progress('sample', len(seeds), unit='images').show,
  )
  labels = condition_of(seeds, card.num_classes, label)['label']
  write_samples(out, images, seeds, labels)
  print(f'wrote {len(seeds)} samples to {out}')
