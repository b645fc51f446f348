"""The run folder: whose run it is."""

import importlib.metadata
import json
import pathlib
import platform

from diffusion_distillation.errors import UserError
from diffusion_distillation.training import files

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


def open_run_folder(workdir, config, *, teacher=None, create=False):
  """Returns the run folder's absolute path, once it is this config's.

  The section `eval` identifies no run: it may be measured in other ways, later.

  Args:
    workdir: path; with `create`, a new folder is made and config.json written.
    config: the resolved config.
    teacher: with `create`, the path of the checkpoint to distill, or None.
    create: whether the run may be new.

  Raises:
    UserError: it holds another config's run, no run though `create` is False,
      or cannot be written.
  """
  workdir = pathlib.Path(workdir).absolute()
  path = workdir / 'config.json'
  ours = json.loads(json.dumps(config.to_dict()))
  try:
    if path.exists():
      # How a run is measured does not make it another run.
      theirs = {**_read(path)['config'], 'eval': ours['eval']}
      different = _differences(theirs, ours)
      if different:
        raise UserError(
          f'{workdir} holds a run of another config ({"; ".join(different)}); '
          'choose another --workdir, or the same settings'
        )
    elif not create:
      raise UserError(f'{workdir} holds no run; --mode=train makes one')
    elif workdir.is_dir() and any(
      # What a run that was killed at its very beginning leaves behind.
      file.name != 'config.json.new'
      for file in workdir.iterdir()
    ):
      raise UserError(
        f'{workdir} is not empty and holds no run; choose another --workdir'
      )
    else:
      workdir.mkdir(parents=True, exist_ok=True)
      run = {'config': ours, 'teacher': teacher, 'versions': versions()}
      files.write_text(path, json.dumps(run, indent=2) + '\n')
  except OSError as error:
    raise UserError(f'--workdir cannot be used: {error}') from error
  return workdir


def _read(path):
  """Returns what config.json holds.

  Raises:
    UserError: it is not of a run.
  """
  try:
    run = json.loads(path.read_text())
    return {'config': dict(run['config']), 'teacher': run['teacher']}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{path} cannot be read ({error!r}); choose another --workdir'
    ) from error


def _differences(theirs, ours, prefix=''):
  """Returns 'key: theirs there, ours here' of each leaf that differs."""
  lines = []
  for key in sorted(theirs.keys() | ours.keys()):
    a, b = theirs.get(key), ours.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      lines += _differences(a, b, f'{prefix}{key}.')
    elif a != b:
      lines.append(f'{prefix}{key}: {a} there, {b} here')
  return lines
