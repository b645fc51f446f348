"""The checkpoints of one training, as they are written and resumed from."""

import pathlib
import shutil
import sys

import numpy as np

from diffusion_distillation.checkpoints import step_folder
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import DamagedError, UserError

_KEEP = 2  # the newest ones of each training


class CheckpointFolder:
  """The checkpoints of one training, which one process writes."""

  def __init__(self, folder):
    """Takes the folder, which need not exist; removes what a kill left."""
    self.path = pathlib.Path(folder).absolute()
    with files.writing(self.path):
      for unfinished in self.path.glob(step_folder.UNFINISHED):
        shutil.rmtree(unfinished)

  def save(self, state, card):
    """Saves a state (host arrays) and its card (JSON values), and waits.

    The newest two are kept, and those before only once this one is complete.

    Raises:
      UserError: the folder holds this step, or it cannot be written.
    """
    path = self.path / str(int(state.step))
    if path.exists():
      raise UserError(
        f'{path} exists already and was not overwritten; move it away'
      )
    with files.writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
    step_folder.write(path, state.weights, _training(state), card)
    with files.writing(self.path):
      for old in step_folder.steps(self.path)[_KEEP:]:
        shutil.rmtree(old)

  def newest(self):
    """Returns the newest step's folder, or the word 'none'."""
    return next(iter(step_folder.steps(self.path)), 'none')

  def restore(self, template, num_updates):
    """Returns the newest good state, of host arrays, and its card, or None.

    Damaged ones that are newer are renamed, with a warning. The state of a
    finished training has its weights alone.

    Args:
      template: a TrainState of arrays or ShapeDtypeStructs.
      num_updates: of the whole training.

    Raises:
      UserError: there are checkpoints, but no good one, which changes nothing;
        or the newest is another network's.
    """
    damaged = []
    for path in step_folder.steps(self.path):
      try:
        found = self._restore(path, template, num_updates)
      except DamagedError as error:
        damaged.append((path, error))
        continue
      for bad, error in damaged:
        _set_aside(bad, error, path)
      return found
    if damaged:
      raise UserError(
        f'no checkpoint in {self.path} is good ({damaged[0][1]}); nothing was '
        'changed; move that folder away to train anew'
      )
    return None

  def _restore(self, path, template, num_updates):
    card = step_folder.read_card(path)
    training = card['training'] or {}
    if training.get('updates') != int(path.name):
      raise DamagedError(f'{path} is not what a training saved there')
    weights = step_folder.read_weights(path, card, template.weights)
    updates, training = card['training']['updates'], {}
    if updates < num_updates:
      training = step_folder.read_training(path, card, _training(template))
    averaged = template.ema_params is not None
    state = template.replace(
      step=np.int32(updates),
      num_updates=np.int32(num_updates),
      opt_state=training.get('opt_state'),
      params=training.get('params') if averaged else weights,
      ema_params=weights if averaged else None,
    )
    return state, card


def state_like(template, finished):
  """Returns the template of what is restored: if finished, weights alone."""
  if not finished:
    return template
  params = template.params if template.ema_params is None else None
  return template.replace(params=params, opt_state=None)


def _training(state):
  """Returns what a state has beside its weights, as it is saved."""
  training = {'step': state.step, 'opt_state': state.opt_state}
  if state.ema_params is not None:
    training['params'] = state.params
  return training


def _set_aside(path, error, good):
  """Renames a damaged checkpoint, which its step's next save would meet."""
  aside = path.with_name(f'{path.name}.damaged')
  while aside.exists():
    aside = aside.with_name(f'{aside.name}.damaged')
  with files.writing(aside):
    path.rename(aside)
  print(
    f'warning: {error}; it is {aside.name} now, and {good} is used instead',
    file=sys.stderr,
  )
