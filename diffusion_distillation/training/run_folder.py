"""The run folder: whose run it is."""

import importlib.metadata
import json
import pathlib
import platform

from diffusion_distillation.errors import UserError

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions():
  """Returns the versions that a run and its checkpoints are made with."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}


def open_run_folder(workdir, config, *, create):
  """Returns the run folder's absolute path, once it is this config's.

  Args:
    workdir: path; with `create`, a new folder is made and config.json written.
    config: the resolved config.
    create: whether the run may be new.

  Raises:
    UserError: it holds another config's run, no run though `create` is False,
      or cannot be written.
  """
  workdir = pathlib.Path(workdir).absolute()
  path = workdir / 'config.json'
  ours = json.loads(json.dumps(config.to_dict()))
  if path.exists():
    try:
      theirs = json.loads(path.read_text())['config']
    except (ValueError, KeyError) as error:
      raise UserError(f'{path} cannot be read: {error!r}') from error
    different = _differences(theirs, ours)
    if different:
      raise UserError(
        f'{workdir} holds a run of another config ({"; ".join(different)}); '
        'choose another --workdir, or the same settings'
      )
    return workdir
  if not create:
    raise UserError(f'{workdir} holds no run; --mode=train makes one')
  if workdir.is_dir() and any(workdir.iterdir()):
    raise UserError(
      f'{workdir} is not empty and holds no run; choose another --workdir'
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    contents = {'config': ours, 'versions': versions()}
    path.write_text(json.dumps(contents, indent=2) + '\n')
  except OSError as error:
    raise UserError(f'--workdir cannot be written: {error}') from error
  return workdir


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
