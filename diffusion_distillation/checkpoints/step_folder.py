"""One checkpoint on disk: the folder of a step, written and read by orbax.

It holds three items: `weights` (what is sampled and distilled), `training` (all
else that resuming needs) and `card` (JSON: what the weights are, and checksums
of all). Reading the weights needs nothing but the folder.
"""

import contextlib
import logging
import os
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffusion_distillation.checkpoints import card as cards
from diffusion_distillation.checkpoints import weight_files
from diffusion_distillation.checkpoints.checksums import add_checksums, verify
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

# Of several processes, 0 writes alone, and waits for no other.
_ALONE = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}
)
# What orbax has not finished bears a name like this; a finished one is renamed.
UNFINISHED = '*.orbax-checkpoint-tmp*'


def write(path, weights, training, card):
  """Writes a new folder, whole or not at all.

  Args:
    path: of the folder.
    weights: tree of host arrays.
    training: likewise.
    card: JSON values.

  Raises:
    UserError: it cannot be written.
  """
  card = add_checksums(card, weights=weights, training=training)
  args = ocp.args.Composite(
    weights=ocp.args.StandardSave(weights),
    training=ocp.args.StandardSave(training),
    card=ocp.args.JsonSave(card),
  )
  try:
    handler = ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(multiprocessing_options=_ALONE)
    )
    with (
      _quiet,
      ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as checkpointer,
    ):
      checkpointer.save(path, args)
  except Exception as error:
    # Of a full disk, orbax tells by whatever exception its parts have.
    raise UserError(
      f'the checkpoint {path} cannot be written: {files.reason(error)}; those '
      'before it are intact, and the same command goes on'
    ) from error


def read_card(path):
  """Returns the card, once it is whole.

  Raises:
    DamagedError: it is not.
  """
  with files.reading(path), _handler(ocp.JsonCheckpointHandler) as handler:
    card = handler.restore(path / 'card')
    verify(card, path)
  return cards.check_keys(card, path)


def read_weights(path, card, expected=None):
  """Returns the weights, NumPy arrays.

  Args:
    path: of the folder.
    card: its card.
    expected: tree of arrays or ShapeDtypeStructs that they must match; None
      takes them as they are.

  Raises:
    DamagedError: they are not what was saved.
    UserError: they do not match.
  """
  path_of = path / 'weights'
  with files.reading(path), _handler(ocp.StandardCheckpointHandler) as handler:
    saved = handler.metadata(path_of).tree
    if expected is not None:
      weight_files.check_match(path, saved, expected)
    target = jax.tree.map(_empty, saved)
    weights = handler.restore(path_of, args=ocp.args.StandardRestore(target))
    verify(card, path, weights=weights)
  return weights


def read_training(path, card, template):
  """Returns all else that resuming needs, NumPy arrays.

  Args:
    path: of the folder.
    card: its card.
    template: tree of arrays or ShapeDtypeStructs, of the same structure.

  Raises:
    DamagedError: it is not what was saved.
  """
  target = ocp.args.StandardRestore(jax.tree.map(_empty, template))
  with files.reading(path), _handler(ocp.StandardCheckpointHandler) as handler:
    training = handler.restore(path / 'training', args=target)
    verify(card, path, training=training)
  return training


def _empty(leaf):
  # NumPy targets make a checkpoint portable between numbers of devices.
  return np.empty(leaf.shape, leaf.dtype)


def steps(folder):
  """Returns the folders of steps in a folder, the newest first.

  Raises:
    UserError: there may be some, but they cannot be seen for now.
  """
  try:
    with os.scandir(folder) as entries:
      names = [e.name for e in entries if e.name.isdecimal() and e.is_dir()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  except OSError as error:  # which `glob` would take for an empty folder
    raise files.unreadable(folder, error) from error
  return [folder / name for name in sorted(names, key=int, reverse=True)]


@contextlib.contextmanager
def _handler(handler_type):
  handler = handler_type()
  try:
    with _quiet:
      yield handler
  finally:
    handler.close()


class _Quiet:
  """Keeps orbax from telling a hundred times what its exception tells once.

  Where one array fails, it logs tracebacks, and so do those that are still
  under way, even later: what is set here stays, once it is needed. A thread
  may save while another reads: the last one out sets it back.
  """

  def __init__(self):
    self._lock, self._inside, self._undo = threading.Lock(), 0, None

  def __enter__(self):
    with self._lock:
      if self._inside == 0:
        self._undo = _hush()
      self._inside += 1

  def __exit__(self, kind, *exception):
    with self._lock:
      self._inside -= 1
      if kind is not None:
        self._undo = None
      if self._inside == 0 and self._undo is not None:
        self._undo()


_quiet = _Quiet()


def _hush():
  """Hushes orbax; returns a function that undoes it."""
  hook = sys.unraisablehook
  loggers = [logging.getLogger(name) for name in ('absl', 'asyncio')]
  levels = [logger.level for logger in loggers]

  def without_late_arrays(unraisable):
    if 'Event loop is closed' not in str(unraisable.exc_value):
      hook(unraisable)

  def undo():
    sys.unraisablehook = hook
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)

  sys.unraisablehook = without_late_arrays
  for logger in loggers:
    logger.setLevel(logging.CRITICAL)
  return undo
