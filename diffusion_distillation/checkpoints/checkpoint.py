"""Checkpoints as they are read: of this program, or files of weights."""

import dataclasses
import pathlib
import sys

from diffusion_distillation.checkpoints import step_folder, weight_files
from diffusion_distillation.checkpoints.google import load_google_checkpoint
from diffusion_distillation.runtime.errors import DamagedError, UserError

__all__ = [
  'Checkpoint',
  'find',
  'load',
  'load_google_checkpoint',
  'read_card',
]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Weights, as NumPy arrays, and their card."""

  weights: dict
  card: dict
  path: pathlib.Path | str


def find(path):
  """Returns the step folder, or the file, that a path means; absolute.

  Args:
    path: a step folder, or a folder (or its parent) that holds step folders; of
      these, the newest is meant. Or a file: see `weight_files`.

  Raises:
    UserError: there is none.
  """
  if weight_files.is_file(path):
    # A run that began with it may be resumed from another folder.
    remote = str(path).startswith('gs://')
    return path if remote else pathlib.Path(path).absolute()
  return _candidates(path)[0]


def _candidates(path):
  """Returns the step folders that a path may mean, the newest first."""
  path = pathlib.Path(path).absolute()
  if not path.exists():
    raise UserError(f'no checkpoint at {path}: there is no such folder')
  for folder in (path, path / 'checkpoints'):
    if (folder / 'card').is_dir() or (folder / 'weights').is_dir():
      return [folder]
    if steps := step_folder.steps(folder):
      return steps
  inside = sorted(str(p.parent.name) for p in path.glob('*/checkpoints'))
  hint = f'; name one of its folders: {", ".join(inside)}' if inside else ''
  raise UserError(f'{path} holds no checkpoint of this program{hint}')


def read_card(path, config=None):
  """Returns the card of the checkpoint at `path` (see `find`), a dict.

  Args:
    path: a folder or a file.
    config: says what a file of the original holds.

  Raises:
    UserError: there is none, or it cannot be read, or is another program's.
  """
  if weight_files.is_file(path):
    return weight_files.read(path, config)[1]
  return step_folder.read_card(find(path))


def load(path, expected=None, config=None, fall_back=False):
  """Returns the Checkpoint at `path` (see `find`).

  Args:
    path: a folder or a file.
    expected: tree of arrays or ShapeDtypeStructs that the weights must match;
      None takes them as they are.
    config: says what a file of the original holds.
    fall_back: whether, of a folder of checkpoints, an older one may be taken
      where the newest is damaged; a warning then says so.

  Raises:
    UserError: there is none, it is not ours, or its weights do not match.
  """
  if weight_files.is_file(path):
    weights, card = weight_files.read(path, config)
    if expected is not None:
      weight_files.check_match(path, weights, expected)
    return Checkpoint(weights, card, find(path))
  newest, *older = _candidates(path)
  for folder in (newest, *older):
    try:
      card = step_folder.read_card(folder)
      weights = step_folder.read_weights(folder, card, expected)
      return Checkpoint(weights, card, folder)
    except DamagedError as error:
      if not fall_back or folder == (newest, *older)[-1]:
        raise
      print(f'warning: {error}; an older one is used', file=sys.stderr)
