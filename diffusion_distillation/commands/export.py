"""--mode=export: the weights of a checkpoint as one file."""

from diffusion_distillation import checkpoints
from diffusion_distillation.commands import inputs
from diffusion_distillation.generation.image_files import check_writable


def export(checkpoint, out, config=None):
  """Writes the weights of a checkpoint to one file.

  Args:
    checkpoint: path of a checkpoint.
    out: FILE.safetensors, which gets the card, too; or FILE.flax, or FILE
      without a suffix, in the format of Google's original.
    config: describes the network of a file that has no card.

  Raises:
    UserError: the checkpoint cannot be read, or `out` cannot be written.
  """
  write = checkpoints.writer_of(out)
  check_writable(out, is_file=True)
  checkpoint = inputs.load_checkpoint(checkpoint, config)
  write(checkpoint, out)
  print(f'wrote the weights of {checkpoint.path} to {out}')
