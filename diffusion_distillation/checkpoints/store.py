"""Checkpoints of a training in progress: how they are saved and restored.

Each is a folder, named by the number of updates, which appears only once it is
complete. It holds

  weights/       orbax: what is sampled and distilled
  training/      orbax: the rest of the training state
  card.json      what the weights are, see `Card`
  progress.json  what else resuming needs, such as the seconds spent
  SHA256SUMS     checksums of these files, which `sha256sum --check` reads

A checkpoint is damaged if a file is missing or its checksum differs: orbax does
not notice a changed byte in an array. If intact files cannot be read, the cause
is elsewhere and may be temporary, so nothing is renamed.

orbax's CheckpointManager was tried with all tests of this module. It saves no
code, leaves the folder of a killed save behind, commits
before checksums can be written, and counts an empty folder with a number as a
checkpoint, for which it may delete a good one.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffusion_distillation.checkpoints.card import Card
from diffusion_distillation.checkpoints.weights import check_shapes
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import DamagedError, UserError

_KEEP = 2  # number of checkpoints that are kept of each training
_UNFINISHED = '.unfinished'
_CHECKSUMS = 'SHA256SUMS'


class CheckpointFolder:
  """The checkpoints of one training, written by one process."""

  def __init__(self, folder):
    """Takes the path of the folder, which need not exist."""
    self.path = pathlib.Path(folder).absolute()

  def save(self, state, card, progress):
    """Saves a checkpoint, and removes all but the newest two.

    Args:
      state: a TrainState of host arrays.
      card: the Card of its weights.
      progress: JSON values that `restore` returns as they are.

    Raises:
      UserError: the folder has this step already, or cannot be written.
    """
    path = self.path / str(int(state.step))
    if path.exists():
      raise UserError(
        f'{path} exists already and was not overwritten; move it away'
      )
    unfinished = path.with_name(f'{path.name}{_UNFINISHED}')
    with files.writing(path):
      _write_arrays(unfinished, _items(state))
      _write_json(unfinished / 'card.json', card.to_json())
      _write_json(unfinished / 'progress.json', progress)
      _write_checksums(unfinished)
      unfinished.rename(path)
      for old in steps(self.path)[_KEEP:]:
        shutil.rmtree(old)

  def newest(self):
    """Returns the folder of the newest checkpoint, or None."""
    return next(iter(steps(self.path)), None)

  def newest_card(self):
    """Returns the newest intact Card of the checkpoints, or None."""
    for path in steps(self.path):
      with contextlib.suppress(DamagedError):
        return read_card(path)
    return None

  def restore(self, template, num_updates):
    """Returns the state, card and progress of the newest good checkpoint.

    Newer ones that are damaged are renamed to STEP.damaged, with a warning, and
    what a killed process left unfinished is removed. The state of a finished
    training has weights only.

    Args:
      template: a TrainState of arrays or ShapeDtypeStructs.
      num_updates: length of the whole training.

    Returns:
      (TrainState of host arrays, Card, JSON values), or None if the folder
      holds no checkpoint.

    Raises:
      UserError: all checkpoints are damaged, the newest cannot be read, or it
        does not fit the network. Nothing is renamed then.
    """
    for name in _folders(self.path):
      if name.endswith(_UNFINISHED):
        with files.writing(self.path):
          shutil.rmtree(self.path / name)
    damaged = []
    for path in steps(self.path):
      try:
        found = _restore(path, template, num_updates)
      except DamagedError as error:
        damaged.append((path, error))
        continue
      for bad, error in damaged:
        _set_aside(bad, error, path)
      return found
    if damaged:
      raise UserError(
        f'no checkpoint in {self.path} is intact ({damaged[0][1]}); nothing '
        'was changed; move that folder away to start this training again'
      )
    return None


class NoCheckpoints:
  """Stands in for a CheckpointFolder in processes other than 0."""

  def restore(self, template, num_updates):
    """Returns None: process 0 sends what it restores."""

  def newest(self):
    """Returns where the newest checkpoint is."""
    return "process 0's"


class Saver:
  """Runs one save after another in a thread; a context manager that waits.

  An exception of a save is raised by the next call of any method.
  """

  def __init__(self):
    self._executor = concurrent.futures.ThreadPoolExecutor(1, 'saver')
    self._last = None

  def __enter__(self):
    return self

  def __exit__(self, kind, *exception):
    try:
      if kind is None:
        self.wait()
    finally:
      self._executor.shutdown()

  @property
  def busy(self):
    """Whether a save is still running."""
    return self._last is not None and not self._last.done()

  def check(self):
    """Raises the exception of the last save, if it failed."""
    if not self.busy:
      self.wait()

  def wait(self):
    """Waits until the last save has ended."""
    last, self._last = self._last, None
    if last is not None:
      last.result()

  def start(self, save, *args):
    """Starts save(*args) once the previous save has ended."""
    self.wait()
    self._last = self._executor.submit(save, *args)


def steps(folder):
  """Returns the folders of the checkpoints in a folder, the newest first.

  Raises:
    UserError: the folder cannot be listed.
  """
  names = [name for name in _folders(folder) if name.isdecimal()]
  ordered = sorted(names, key=int, reverse=True)
  return [pathlib.Path(folder) / name for name in ordered]


def is_step(path):
  """Returns whether a path is the folder of a checkpoint."""
  path = pathlib.Path(path)
  return (path / _CHECKSUMS).is_file() or (path / 'weights').is_dir()


def read(path, config=None):
  """Returns the weights and the Card of a checkpoint.

  Args:
    path: folder of the checkpoint.
    config: not used; the card describes the weights.

  Raises:
    DamagedError: a file is missing or has changed.
    UserError: a file cannot be read, or was not written by this program.
  """
  del config
  card = read_card(path)
  shapes = card.denoiser().param_shapes()
  return _read_weights(path, shapes, 'its card'), card


def read_card(path, config=None):
  """Returns the Card of a checkpoint; arguments and errors as in `read`."""
  del config
  return Card.from_json(_read_json(path, 'card.json'), path)


def read_progress(path):
  """Returns the progress that a checkpoint was saved with, JSON values.

  Args:
    path: folder of the checkpoint.

  Raises:
    DamagedError: the file is missing or has changed.
    UserError: the file cannot be read.
  """
  return _read_json(path, 'progress.json')


def read_checksum(path):
  """Returns a checksum that identifies the weights of a checkpoint.

  Equal weights that are saved twice have different checksums, since the files
  of orbax differ. No array is read.

  Args:
    path: folder of the checkpoint.

  Raises:
    DamagedError: there are no checksums of the weights.
    UserError: the checksums cannot be read.
  """
  with files.reading(path):
    text = json.dumps(_checksums(path, 'weights'))
  return hashlib.sha256(text.encode()).hexdigest()


def _folders(folder):
  """Returns the names of the folders in a folder, none if it does not exist."""
  try:
    with os.scandir(folder) as entries:
      return [entry.name for entry in entries if entry.is_dir()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  except OSError as error:  # pathlib's glob would report an empty folder
    raise UserError(f'cannot read {folder}: {error.strerror}') from error


def _restore(path, template, num_updates):
  card, progress = read_card(path), read_progress(path)
  if card.updates != int(path.name):
    raise DamagedError(f'{path} is damaged: its card is of another step')
  weights = _read_weights(path, template.weights, 'the config')
  training = {}
  if card.updates < num_updates:
    _verify(path, 'training')
    training = _read_arrays(path, 'training', _items(template)['training'])
  averaged = template.ema_params is not None
  state = template.replace(
    step=np.int32(card.updates),
    num_updates=np.int32(num_updates),
    opt_state=training.get('opt_state'),
    params=training.get('params') if averaged else weights,
    ema_params=weights if averaged else None,
    target_params=training.get('target_params'),
  )
  return state, card, progress


def _items(state):
  """Returns the two trees of arrays that a state is saved as."""
  training = {'step': state.step, 'opt_state': state.opt_state}
  if state.ema_params is not None:
    training['params'] = state.params
  if state.target_params is not None:
    training['target_params'] = state.target_params
  return {'weights': state.weights, 'training': training}


def _write_arrays(path, items):
  """Writes trees of arrays into a new folder.

  Raises:
    UserError: the arrays cannot be written.
  """
  try:
    with _orbax() as orbax:
      for name, tree in items.items():
        orbax.save(path / name, args=ocp.args.StandardSave(tree))
  except Exception as error:  # a full disk makes orbax raise many types
    parent = next(folder for folder in path.parents if folder.exists())
    free = shutil.disk_usage(parent).free / 1e6
    # Orbax states the cause at the end of a long line.
    cause = ' '.join(str(error).split())[-150:] or type(error).__name__
    raise UserError(
      f'cannot write {path} ({free:,.0f} MB are free there): {cause}; earlier '
      'checkpoints are intact: fix this, and rerun the same command to resume'
    ) from error


def _read_weights(path, expected, source):
  """Returns the weights after checking their names and shapes."""
  _verify(path, 'weights')
  with files.reading(path), _orbax() as orbax:
    saved = orbax.metadata(path / 'weights').item_metadata.tree
  # Orbax would report a wrong shape in thousands of lines on stderr.
  check_shapes(path, saved, expected, source)
  return _read_arrays(path, 'weights', saved)


def _read_arrays(path, item, template):
  """Returns the tree of NumPy arrays of an item that was verified."""
  # NumPy arrays as targets do not depend on the number of devices.
  target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
  with files.reading(path), _orbax() as orbax:
    return orbax.restore(path / item, args=ocp.args.StandardRestore(target))


def _read_json(path, name):
  _verify(path, name)
  with files.reading(path):
    return json.loads((path / name).read_text())


def _write_json(path, values):
  files.write_text(path, json.dumps(values, indent=2) + '\n')


def _write_checksums(folder):
  inside = [path for path in folder.rglob('*') if path.is_file()]
  sums = {path.relative_to(folder).as_posix(): _digest(path) for path in inside}
  lines = [f'{sums[name]}  {name}\n' for name in sorted(sums)]
  files.write_text(folder / _CHECKSUMS, ''.join(lines))


def _verify(path, item):
  """Compares a file, or the files of a folder, with their checksums.

  Raises:
    DamagedError: one is missing or differs.
    UserError: one cannot be read.
  """
  with files.reading(path):
    for name, checksum in _checksums(path, item).items():
      file = path / name
      if not file.is_file() or _digest(file) != checksum:
        raise DamagedError(f'{path} is damaged: {name} is missing or differs')


def _checksums(path, item):
  """Returns the checksums of a file, or of the files of a folder, by name."""
  manifest = path / _CHECKSUMS
  text = manifest.read_text(errors='replace') if manifest.is_file() else ''
  lines = [line.partition('  ') for line in text.splitlines()]
  found = {name: sum_ for sum_, _, name in lines if name.split('/')[0] == item}
  if not found:
    raise DamagedError(f'{path} is damaged: it has no checksums of {item}')
  return found


def _digest(path):
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _set_aside(path, error, good):
  """Renames a damaged checkpoint, so that its step can be saved again."""
  aside = path.with_name(f'{path.name}.damaged')
  while aside.exists():
    aside = aside.with_name(f'{aside.name}.damaged')
  with files.writing(aside):
    path.rename(aside)
  print(
    f'warning: {error}; it was renamed to {aside.name}, and {good} is used',
    file=sys.stderr,
  )


def _orbax():
  """Returns a Checkpointer, a context manager, for this process alone."""
  _hush_orbax()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}
  )
  return ocp.Checkpointer(
    ocp.StandardCheckpointHandler(multiprocessing_options=alone),
    multiprocessing_options=alone,
  )


@functools.cache
def _hush_orbax():
  """Drops what orbax prints for every array when the disk is full.

  The exception of orbax says the same once. The lines come from its logger, and
  from event loops that were closed while arrays were still being written.
  """
  hook = sys.unraisablehook

  def without_closed_loops(unraisable):
    if 'Event loop is closed' not in str(unraisable.exc_value):
      hook(unraisable)

  sys.unraisablehook = without_closed_loops
  logging.getLogger('absl').addFilter(
    lambda record: 'orbax' not in record.pathname
  )
