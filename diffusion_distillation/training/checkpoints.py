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
from flax import traverse_util

from diffusion_distillation.errors import UserError
from diffusion_distillation.training import cards

_KEEP = 2  # the newest ones of each training


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Weights, as NumPy arrays, and their card."""

  weights: dict
  card: dict
  path: pathlib.Path


class CheckpointFolder:
  """The checkpoints of one training; a context manager that waits for saves."""

  def __init__(self, folder):
    self.path = pathlib.Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP)
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
    with _reading(self.path / str(step)):
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
  """Returns the step folder that a path means.

  Args:
    path: a step folder, or a folder (or its parent) that holds step folders; of
      these, the newest is meant.

  Raises:
    UserError: there is none.
  """
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


def read_card(path):
  """Returns the card of the checkpoint at `path` (see `find`), a dict.

  Raises:
    UserError: there is none, or it cannot be read, or is another program's.
  """
  folder = find(path)
  with _reading(folder), _handler(ocp.JsonCheckpointHandler) as handler:
    card = handler.restore(folder / 'card')
  missing = [key for key in cards.KEYS if key not in card]
  if missing:
    raise UserError(f'the card of {folder} has no {missing[0]}: not ours')
  return card


def load(path, expected=None):
  """Returns the Checkpoint at `path` (see `find`).

  Args:
    path: a folder.
    expected: tree of arrays or ShapeDtypeStructs that the weights must match;
      None takes them as they are.

  Raises:
    UserError: there is none, it is not ours, or its weights do not match.
  """
  folder = find(path)
  card = read_card(folder)
  with _reading(folder), _handler(ocp.StandardCheckpointHandler) as handler:
    saved = handler.metadata(folder / 'weights').tree
    if expected is not None:
      _check_match(folder, saved, expected)
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


@contextlib.contextmanager
def _reading(folder):
  """Tells errors of reading as one line; orbax raises a bare Exception."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = str(error).strip().split('\n')[0][:200]
    raise UserError(
      f'{folder} cannot be read, it is damaged or not ours: {reason}'
    ) from error


def _check_match(folder, saved, expected):
  """Raises UserError that names the first leaf in which the trees differ.

  Comparing metadata first is not only friendlier: orbax answers a wrong shape
  with thousands of lines.
  """
  saved = traverse_util.flatten_dict(saved, sep='/')
  expected = traverse_util.flatten_dict(expected, sep='/')
  for name in sorted(saved.keys() | expected.keys()):
    shapes = [
      tuple(tree[name].shape) if name in tree else 'absent'
      for tree in (saved, expected)
    ]
    if shapes[0] != shapes[1]:
      raise UserError(
        f'{folder} does not fit the network of the config: {name} is '
        f'{shapes[0]} there and {shapes[1]} here; use the model.args it was '
        'trained with'
      )
