"""Samples as files: a .npz, or a folder of PNGs."""

import pathlib
import re
import tempfile

import numpy as np

from diffusion_distillation.generation.generator import Generator, labels_of
from diffusion_distillation.report import plots
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress

_MOST = 10_000_000


def parse_seeds(text):
  """Returns seeds, (N,) ints, of a text such as '0-63' or '1,5,10-12'.

  Raises:
    UserError: it does not parse, or names no seed or too many.
  """
  seeds = []
  for part in text.split(','):
    match = re.fullmatch(r'(\d+)(?:-(\d+))?', part.strip(), re.ASCII)
    first, last = (match[1], match[2] or match[1]) if match else (1, 0)
    first, last = int(first), int(last)
    if last < first or last >= 2**32 or last - first >= _MOST:
      raise UserError(
        f'--seeds={text} does not parse; give ints below 2^32 and ranges of at '
        f'most {_MOST:,}, such as 0-63 or 1,5,10-12'
      )
    seeds.append(np.arange(first, last + 1))
  return np.concatenate(seeds)


def _is_npz(out):
  return out.suffix.lower() == '.npz'


def check_writable(out, is_file=None):
  """Makes the folder that `out` needs.

  Args:
    out: path.
    is_file: whether a file is to be written; by default, if it is a .npz.

  Raises:
    UserError: it cannot be made or written.
  """
  if str(out).startswith('gs://'):
    raise UserError(f'--out={out} is not local; write it here, and copy it')
  out = pathlib.Path(out)
  is_file = _is_npz(out) if is_file is None else is_file
  folder = out.parent if is_file else out
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    if is_file and out.is_dir():
      raise IsADirectoryError(f'{out} is a folder')
  except OSError as error:
    raise UserError(f'--out cannot be written: {error}') from error


def write_samples(checkpoint, *, seeds, out, method, num_steps, batch_size=512):
  """Draws samples of a checkpoint and writes them.

  Args:
    checkpoint: a Checkpoint.
    seeds: (N,) ints; one image each.
    out: FILE.npz gets `arr_0`, uint8 (N, H, W, C), and `arr_1`, the classes (0
      where there are none); else a folder, of SEED.png and grid.png.
    method: of samplers.METHODS.
    num_steps: sampling steps.
    batch_size: images drawn at once.

  Raises:
    UserError: `out` cannot be written.
  """
  card = checkpoint.card
  check_writable(out)
  generator = Generator(card, batch_size)
  progress = Progress('sample', len(seeds), unit='images')
  images = generator.images(
    checkpoint.weights,
    seeds,
    num_steps,
    method,
    progress.show,
  )
  out = pathlib.Path(out)
  if _is_npz(out):
    labels = labels_of(seeds, card['num_classes']).astype(np.int32)
    files.write_npz(out, {'arr_0': images, 'arr_1': labels})
    return
  for seed, image in zip(seeds, images, strict=True):
    plots.to_image(image).save(out / f'{seed:06}.png')
  plots.save_grid(images, out / 'grid.png')
