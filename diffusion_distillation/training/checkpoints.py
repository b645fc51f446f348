"""Checkpoints: orbax, one folder per training, each described by a card.

A step's folder holds three items: `weights` (what is sampled and distilled),
`training` (all else that resuming needs) and `card` (JSON: what the weights
are). Reading the weights needs nothing but the folder.
"""

import contextlib
import dataclasses
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffusion_distillation.errors import UserError
from diffusion_distillation.training import cards, files, weight_files
from diffusion_distillation.training.google_checkpoints import (
  load_google_checkpoint,
)

__all__ = [
  'Checkpoint',
  'CheckpointFolder',
  'find',
  'load',
  'load_google_checkpoint',
  'read_card',
]

_KEEP = 2  # the newest ones of each training


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Weights, as NumPy arrays, and their card."""

  weights: dict
  card: dict
  path: pathlib.Path | str


class CheckpointFolder:
  """The checkpoints of one training; a context manager that waits for saves."""

  def __init__(self, folder):
    self.path = pathlib.Path(folder).absolute()
    self.path.mkdir(parents=True, exist_ok=True)
    # Of several processes, 0 saves alone, and waits for no other.
    options = ocp.CheckpointManagerOptions(
      max_to_keep=_KEEP,
      create=False,
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}
      ),
    )
    self._manager = ocp.CheckpointManager(self.path, options=options)

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._manager.wait_until_finished()
    self._manager.close()

  def save(self, state, card):
    """Starts to save a state (host arrays) and its card (JSON values).

    Raises:
      UserError: the folder already holds this step, or a later one.
    """
    step = int(state.step)
    training = {
      'step': np.asarray(state.step),
      'opt_state': state.opt_state,
    }
    if state.ema_params is not None:
      training['params'] = state.params
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        weights=ocp.args.StandardSave(state.weights),
        training=ocp.args.StandardSave(training),
        card=ocp.args.JsonSave(card),
      ),
    )
    if not saved:
      raise UserError(
        f'{self.path} already holds step {self._manager.latest_step()}: step '
        f'{step} was not saved; move that folder away'
      )

  def newest(self):
    """Returns the newest step's folder, or the word 'none'."""
    step = self._manager.latest_step()
    return 'none' if step is None else self.path / str(step)

  def restore(self, template):
    """Returns the newest state and its card, or None where there is none.

    Args:
      template: a state of the same structure, of host arrays.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    checkpoint = load(self.path / str(step), template.weights)
    training = {
      'step': np.asarray(template.step),
      'opt_state': template.opt_state,
    }
    if template.ema_params is not None:
      training['params'] = template.params
    with files.reading(self.path / str(step)):
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(training=ocp.args.StandardRestore(training)),
      )['training']
    averaged = template.ema_params is not None
    state = template.replace(
      step=restored['step'],
      opt_state=restored['opt_state'],
      params=restored['params'] if averaged else checkpoint.weights,
      ema_params=checkpoint.weights if averaged else None,
    )
    return state, checkpoint.card


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
  path = pathlib.Path(path).absolute()
  if not path.exists():
    raise UserError(f'no checkpoint at {path}: there is no such folder')
  for folder in (path, path / 'checkpoints'):
    if (folder / 'card').is_dir() and (folder / 'weights').is_dir():
      return folder
    steps = [p for p in folder.glob('*') if (p / 'card').is_dir()]
    steps = [p for p in steps if p.name.isdigit()]
    if steps:
      return max(steps, key=lambda p: int(p.name))
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
  folder = find(path)
  with files.reading(folder), _handler(ocp.JsonCheckpointHandler) as handler:
    card = handler.restore(folder / 'card')
  return cards.check_keys(card, folder)


def load(path, expected=None, config=None):
  """Returns the Checkpoint at `path` (see `find`).

  Args:
    path: a folder or a file.
    expected: tree of arrays or ShapeDtypeStructs that the weights must match;
      None takes them as they are.
    config: says what a file of the original holds.

  Raises:
    UserError: there is none, it is not ours, or its weights do not match.
  """
  if weight_files.is_file(path):
    weights, card = weight_files.read(path, config)
    if expected is not None:
      weight_files.check_match(path, weights, expected)
    return Checkpoint(weights, card, find(path))
  folder = find(path)
  card = read_card(folder)
  with (
    files.reading(folder),
    _handler(ocp.StandardCheckpointHandler) as handler,
  ):
    saved = handler.metadata(folder / 'weights').tree
    if expected is not None:
      weight_files.check_match(folder, saved, expected)
    # NumPy targets make a checkpoint portable between numbers of devices.
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
    weights = handler.restore(
      folder / 'weights', args=ocp.args.StandardRestore(target)
    )
  return Checkpoint(weights, card, folder)


@contextlib.contextmanager
def _handler(handler_type):
  handler = handler_type()
  try:
    yield handler
  finally:
    handler.close()
