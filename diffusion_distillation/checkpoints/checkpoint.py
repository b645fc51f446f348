"""Loading checkpoints, whatever their format."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from diffusion_distillation.checkpoints import google, safetensors, store
from diffusion_distillation.checkpoints.card import Card
from diffusion_distillation.checkpoints.weights import weights_checksum
from diffusion_distillation.runtime.errors import DamagedError, UserError


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Weights and what they are.

  Attributes:
    weights: nested dict of NumPy arrays, the parameters of the card's network.
    card: their Card.
    path: absolute, of the step folder or file that they were read from.
  """

  weights: dict
  card: Card
  path: pathlib.Path | str

  @functools.cached_property
  def checksum(self):
    """The `weights_checksum` of the weights."""
    return weights_checksum(self.weights)

  def denoise(self, condition=None):
    """Returns denoise(z, logsnr) -> x_hat, which samplers take.

    Args:
      condition: {'label': (B,) int32 classes}; None is unconditional.
    """
    return self.card.denoiser().bind(self.weights, condition)


class Reader(NamedTuple):
  """How a format is read. Both functions raise UserError."""

  accepts: Callable  # path -> whether it is of this format
  read: Callable  # (path, config or None) -> (weights, Card)
  read_card: Callable  # (path, config or None) -> Card


def _is_file(path):
  return str(path).startswith('gs://') or pathlib.Path(path).is_file()


def _is_safetensors(path):
  return _is_file(path) and str(path).endswith('.safetensors')


# The first format that accepts a path is the one that reads it.
READERS = {
  'step folder': Reader(store.is_step, store.read, store.read_card),
  'safetensors': Reader(
    _is_safetensors, safetensors.read, safetensors.read_card
  ),
  # The original's files have neither a suffix nor a magic number.
  'google': Reader(_is_file, google.read, google.read_card),
}
# suffix -> (Checkpoint, path) -> None.
WRITERS = {
  '.safetensors': safetensors.write,
  '.flax': google.write,
  '': google.write,
}


def load(path, config=None, fall_back=False):
  """Returns the Checkpoint at a path.

  Args:
    path: a file of a format in READERS; or the folder of a training,
      `DIR/teacher`, which means its newest checkpoint; or one checkpoint in it,
      `DIR/teacher/checkpoints/3000`.
    config: checked config of the network; used where the format does not
      describe the network.
    fall_back: whether an older checkpoint of a training is read, with a
      warning, where the newest is damaged.

  Raises:
    UserError: there is no checkpoint, it cannot be read, or the weights do not
      fit the network that they are said to be of.
    DamagedError: it has changed since it was written.
  """
  reader, candidates = _find(path)
  for candidate in candidates:
    try:
      weights, card = reader.read(candidate, config)
      return Checkpoint(weights, card, candidate)
    except DamagedError as error:
      if not fall_back or candidate == candidates[-1]:
        raise
      print(f'warning: {error}; an older one is used', file=sys.stderr)


def read_card(path, config=None):
  """Returns the Card of the checkpoint at a path; see `load`."""
  reader, candidates = _find(path)
  return reader.read_card(candidates[0], config)


def read_progress(path):
  """Returns what was saved besides state and card: see `CheckpointFolder`.

  Args:
    path: folder of a training, or of a checkpoint in it.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  return store.read_progress(find(path))


def read_checksum(path):
  """Returns a checksum that identifies the weights of a training.

  Args:
    path: folder of a training, or of a checkpoint in it.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  return store.read_checksum(find(path))


def find(path):
  """Returns the absolute path of the file or step folder that `load` reads.

  Raises:
    UserError: there is no checkpoint.
  """
  return _find(path)[1][0]


def export(checkpoint, path):
  """Writes a Checkpoint to one file.

  Args:
    checkpoint: a Checkpoint.
    path: FILE.safetensors, which keeps the card; or FILE.flax, or FILE without
      a suffix, in the original's format, which keeps a student's number of
      steps only.

  Raises:
    UserError: the path has another suffix, or cannot be written.
  """
  writer_of(path)(checkpoint, path)


def writer_of(path):
  """Returns the row of WRITERS for a path.

  Raises:
    UserError: no format has the suffix of the path.
  """
  suffix = pathlib.Path(path).suffix
  if suffix not in WRITERS:
    known = ', '.join(filter(None, WRITERS))
    raise UserError(
      f'cannot write {path}: weights are not written to {suffix} files; known: '
      f'{known}, or none'
    )
  return WRITERS[suffix]


def _find(path):
  """Returns the Reader of a path, and what it can read there, newest first."""
  if not str(path).startswith('gs://'):
    path = pathlib.Path(path).absolute()
  for reader in READERS.values():
    if reader.accepts(path):
      return reader, [path]
  for folder in (path, path / 'checkpoints'):
    if found := store.steps(folder):
      return READERS['step folder'], found
  if not path.exists():
    raise UserError(f'no checkpoint at {path}: there is no such file or folder')
  inside = sorted(inner.parent.name for inner in path.glob('*/checkpoints'))
  hint = f'; it has these trainings: {", ".join(inside)}' if inside else ''
  raise UserError(f'{path} holds no checkpoint of this program{hint}')
