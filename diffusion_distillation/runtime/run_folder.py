"""The run folder: whose run it is, and that one process alone works in it."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

# Keys of a config that do not make it another run: how long, how often, where,
# and how the same numbers are computed.
_CHANGEABLE = {
  'accumulate',
  'checkpoint_every_secs',
  'compilation_cache_dir',
  'data_dir',
  'end_num_steps',
  'eval_every_steps',
  'log_loss_every_steps',
  'num_updates',
  'remat',
  'steps_per_iter',
  'substeps',
}
_LOCK = 'lock'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions():
  """Returns the versions that a run and its checkpoints are made with."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}


def teacher_of(workdir):
  """Returns the teacher's checkpoint that a run began with, or None.

  It is looked up once, when the run begins: a path may mean another checkpoint
  tomorrow, and a ladder has one teacher.
  """
  path = pathlib.Path(workdir).absolute() / 'config.json'
  return _read(path)['teacher'] if path.exists() else None


def check_run_folder(workdir, config):
  """Checks that a run that has begun is this config's, and nobody works in it.

  So that a second process is refused before it opens data and teacher.

  Raises:
    UserError: it is not, or somebody does.
  """
  if (pathlib.Path(workdir) / 'config.json').exists():
    with open_run_folder(workdir, config):
      pass


@contextlib.contextmanager
def open_run_folder(workdir, config, *, teacher=None, create=False, lock=True):
  """Gives the run folder's absolute path, once it is this config's, and ours.

  The section `eval` identifies no run: it may be measured in other ways, later.
  Nor do lengths and intervals; config.json has those of the newest command.

  Args:
    workdir: path; with `create`, a new folder is made and config.json written.
    config: the resolved config.
    teacher: with `create`, the path of the checkpoint to distill, or None.
    create: whether the run may be new.
    lock: whether no other process may work in it meanwhile. The system frees
      the lock of a process that ends, however it does.

  Raises:
    UserError: it holds another config's run, no run though `create` is False,
      cannot be written, or another process is at work in it.
  """
  workdir = pathlib.Path(workdir).absolute()
  path = workdir / 'config.json'
  ours = json.loads(json.dumps(config.to_dict()))
  with contextlib.ExitStack() as stack:
    try:
      theirs = _check(workdir, ours, create)
      if create:
        workdir.mkdir(parents=True, exist_ok=True)
      if lock:
        stack.enter_context(_locked(workdir))
        theirs = _check(workdir, ours, create)  # another may just have begun it
      if create and (theirs is None or theirs['config'] != ours):
        teacher = teacher if theirs is None else theirs['teacher']
        run = {'config': ours, 'teacher': teacher, 'versions': versions()}
        files.write_text(path, json.dumps(run, indent=2) + '\n')
    except OSError as error:
      raise UserError(f'--workdir cannot be used: {error}') from error
    yield workdir


def _check(workdir, ours, create):
  """Returns what config.json holds, or None where a new run may begin.

  Raises:
    UserError: this is not its folder.
  """
  path = workdir / 'config.json'
  if path.exists():
    theirs = _read(path)
    # How a run is measured does not make it another run.
    their_config = {**theirs['config'], 'eval': ours['eval']}
    different = _differences(their_config, ours, _CHANGEABLE)
    if different:
      raise UserError(
        f'{workdir} holds a run of another config ({"; ".join(different)}); '
        'choose another --workdir, or the same settings'
      )
    return theirs
  if not create:
    raise UserError(f'{workdir} holds no run; --mode=train makes one')
  # What a run that was killed at its very beginning leaves behind.
  left = (_LOCK, 'config.json.new')
  if workdir.is_dir() and any(p.name not in left for p in workdir.iterdir()):
    raise UserError(
      f'{workdir} is not empty and holds no run; choose another --workdir'
    )
  return None


@contextlib.contextmanager
def _locked(workdir):
  """Keeps other processes out of a run folder.

  Raises:
    UserError: one is in it.
  """
  with (workdir / _LOCK).open('a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise UserError(
        f'{workdir} is in use by {file.read() or "another process"}; wait for '
        'it, or choose another --workdir'
      ) from error
    except OSError as error:  # a file system without locks
      print(
        f'notice: {workdir} cannot be locked ({error.strerror}); see to it '
        'that one process alone works in it',
        file=sys.stderr,
      )
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}')
    file.flush()
    yield


def check_same(theirs, config):
  """Checks that this process was given the config of process 0.

  Args:
    theirs: JSON values of the config there.
    config: the config here.

  Raises:
    UserError: they differ in more than where the data are.
  """
  ours = json.loads(json.dumps(config.to_dict()))
  different = _differences(theirs, ours, free={'data_dir', 'path'})
  if different:
    raise UserError(
      f'process 0 has another config ({"; ".join(different)}); give all '
      'processes the same'
    )


def _read(path):
  """Returns what config.json holds.

  Raises:
    UserError: it is not of a run.
  """
  try:
    run = json.loads(path.read_text())
    teacher = run['teacher']
    if not isinstance(teacher, str | None):
      raise TypeError(f'its teacher is {teacher!r}')
    return {'config': dict(run['config']), 'teacher': teacher}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{path} cannot be read ({error!r}); choose another --workdir'
    ) from error


def _differences(theirs, ours, free, prefix=''):
  """Returns 'key: theirs there, ours here' of each leaf that differs.

  Args:
    theirs: JSON values of a config.
    ours: likewise.
    free: names of keys that do not matter.
    prefix: of the names of all keys.
  """
  lines = []
  for key in sorted((theirs.keys() | ours.keys()) - free):
    a, b = theirs.get(key), ours.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      lines += _differences(a, b, free, f'{prefix}{key}.')
    elif a != b:
      lines.append(f'{prefix}{key}: {a} there, {b} here')
  return lines
