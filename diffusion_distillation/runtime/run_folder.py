"""The run folder (--workdir): one config, one process at a time.

config.json says what the run is:

  config            the resolved config of the newest command
  rounds            its trainings in order, the teacher's first
  teacher           path of an outside teacher's checkpoint, or null
  teacher_checksum  checksum of that checkpoint, or null
  data              number of training images, and their fingerprint
  versions          of Python and the libraries
  command           the newest command line
  commit            commit of the source code, or null
  started           when the run began, ISO 8601 in UTC
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

_METHODS = 'distillation.methods.'
# Keys whose values may change while files move or machines differ.
_PLACES = {
  'compilation_cache_dir',
  'dataset.args.data_dir',
  'dataset.args.path',
  'distillation.teacher_checkpoint_path',
}
# Keys that a resumed run may change: lengths, intervals, paths, and how to
# compute the same numbers. A section stands for all its keys. Each method of
# `distillation.methods` has the same keys.
_CHANGEABLE = _PLACES | {
  'distillation.end_num_steps',
  'distillation.steps_per_iter',
  'eval',
  *(
    f'{prefix}{key}'
    for prefix in ('', 'teacher.')
    for key in (
      'model.args.norm',
      'model.args.remat',
      'train.accumulate',
      'train.checkpoint_every_secs',
      'train.eval_every_steps',
      'train.log_loss_every_steps',
      'train.num_updates',
      'train.substeps',
    )
  ),
}
_CONFIG, _LOCK, _FAILURE = 'config.json', 'lock', 'failure.txt'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions():
  """Returns the versions of Python and the libraries, name -> version."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}


def read_run(workdir):
  """Returns the contents of config.json, or None if there is no run.

  Items that an earlier version did not write are None or empty.

  Args:
    workdir: the run folder.

  Raises:
    UserError: the file is damaged or cannot be read.
  """
  path = pathlib.Path(workdir) / _CONFIG
  with files.reading(path):
    if not path.exists():
      return None
    names = ('config', 'teacher', 'teacher_checksum', 'data')
    unknown = {**dict.fromkeys(names), 'rounds': []}
    run = {**unknown, **json.loads(path.read_text())}
    if not isinstance(run['config'], dict):
      raise TypeError('it has no config')
    if not isinstance(run['teacher'], str | None):
      raise TypeError('its teacher is not a path')
    if not isinstance(run['data'], dict | None):
      raise TypeError('its data is not a mapping')
    if not all(isinstance(each, dict) for each in run['rounds']):
      raise TypeError('its rounds are not trainings')
    return run


def check_run_folder(workdir, config):
  """Checks that a run folder is new, or has this config and is not in use.

  With this check, a second process fails before it opens data and checkpoints.

  Raises:
    UserError: another process uses the folder, or its run has another config.
  """
  if read_run(workdir) is not None:
    with open_run_folder(workdir, config):
      pass
  else:
    _check(pathlib.Path(workdir), _json(config), True, None, None)


@contextlib.contextmanager
def open_run_folder(
  workdir,
  config,
  *,
  create=False,
  teacher_checksum=None,
  data=None,
  lock=True,
):
  """Opens a run folder that fits the config, for a `with` block with its path.

  Args:
    workdir: path of the folder.
    config: the resolved config.
    create: whether to create the folder if there is none; `write_config` then
      makes it a run. False only opens an existing run.
    teacher_checksum: checksum of the outside teacher's checkpoint, if any.
    data: as in `write_config`; None does not compare the data.
    lock: whether to keep other processes out while the context lasts. The
      system frees the lock when the process ends, even if it is killed.

  Raises:
    UserError: the folder holds a run with another config, teacher or data, or
      other files; it holds no run, and `create` is False; it cannot be written;
      or another process uses it.
  """
  workdir = pathlib.Path(workdir).absolute()
  config = _json(config)
  with contextlib.ExitStack() as stack:
    try:
      _check(workdir, config, create, teacher_checksum, data)
      if create:
        workdir.mkdir(parents=True, exist_ok=True)
      if lock:
        stack.enter_context(_locked(workdir))
        # Another process may have begun a run before this one had the lock.
        _check(workdir, config, create, teacher_checksum, data)
    except OSError as error:
      raise UserError(
        f'--workdir={workdir} cannot be used: {files.reason(error)}'
      ) from error
    yield workdir


def _check(workdir, config, create, teacher_checksum, data):
  """Checks that a folder is new, or holds this run; see `open_run_folder`."""
  run = read_run(workdir)
  if run is not None:
    _check_same_run(workdir, run, config, teacher_checksum, data)
    return
  if not create:
    raise UserError(f'{workdir} holds no run; --mode=train makes one')
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f'--workdir={workdir} is not a folder')
  # A process killed at the very beginning leaves these behind.
  allowed = (_LOCK, f'{_CONFIG}.new')
  if workdir.is_dir() and any(p.name not in allowed for p in workdir.iterdir()):
    raise UserError(
      f'{workdir} is not empty and holds no run; choose another --workdir'
    )


def _check_same_run(workdir, run, config, teacher_checksum, data):
  """Raises UserError if a run has another config, teacher or data."""
  different = _differences(
    *_with_the_same_methods(run['config'], config), _CHANGEABLE
  )
  ours, theirs = _teacher_path(config), _teacher_path(run['config'])
  if (ours is None) != (theirs is None):
    key = 'distillation.teacher_checkpoint_path'
    different.append(f'{key}: {theirs} there, {ours} here')
  if different:
    raise UserError(
      f'{workdir} holds a run of another config ({"; ".join(different)}); '
      'choose another --workdir, or the same settings'
    )
  known = run['teacher_checksum']
  if None not in (known, teacher_checksum) and known != teacher_checksum:
    raise UserError(
      f'{workdir} holds students of another teacher than {ours}: their '
      'checksums differ; give the teacher of this run, or choose another '
      '--workdir'
    )
  before = run['data']
  if None not in (before, data) and before['images'] != data['images']:
    raise UserError(
      f'{workdir} began with {before["images"]:,} training images, and the '
      f'data set has {data["images"]:,} now; give the same data, or choose '
      'another --workdir'
    )


def _teacher_path(config):
  return (config.get('distillation') or {}).get('teacher_checkpoint_path')


def write_config(
  workdir, config, *, rounds, data, teacher=None, teacher_checksum=None
):
  """Writes config.json if it changes.

  Args:
    workdir: path from `open_run_folder`.
    config: the resolved config.
    rounds: JSON values of the trainings, in order.
    data: {'images': number of training images, 'fingerprint': their checksum}.
    teacher: path of the outside teacher's checkpoint. None keeps the one in
      config.json, if any.
    teacher_checksum: checksum of that checkpoint; None keeps the one in
      config.json, if any.

  Raises:
    UserError: the file cannot be written.
  """
  run = read_run(workdir) or {}
  before = run.get('data')
  if before is not None and before != data:
    print(
      'warning: the files of the training images are not the same as before: '
      'names, sizes, times or contents differ',
      file=sys.stderr,
    )
  now = datetime.datetime.now(datetime.UTC)
  new = {
    'config': _json(config),
    'rounds': json.loads(json.dumps(list(rounds))),
    'teacher': teacher or run.get('teacher'),
    'teacher_checksum': teacher_checksum or run.get('teacher_checksum'),
    'data': data,
    'versions': versions(),
    'command': shlex.join(sys.orig_argv),
    'commit': _commit(),
    'started': run.get('started') or now.isoformat(timespec='seconds'),
  }
  if new != run:
    files.write_text(workdir / _CONFIG, f'{json.dumps(new, indent=2)}\n')


def _commit():
  """Returns the commit of the source code, or None outside a checkout."""
  root = pathlib.Path(__file__).parents[2]
  # An installed package may be inside the repository of another project.
  if not (root / '.git').exists():
    return None
  command = ['git', 'describe', '--always', '--dirty', '--abbrev=40']
  try:
    done = subprocess.run(
      [*command, '--exclude=*'],
      cwd=root,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


@contextlib.contextmanager
def _locked(workdir):
  """Keeps other processes out of a run folder.

  Raises:
    UserError: another process uses the folder.
  """
  with (workdir / _LOCK).open('a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise UserError(
        f'{workdir} is in use by {file.read() or "another process"}; wait '
        'until it ends, or choose another --workdir'
      ) from error
    except OSError as error:  # a file system without locks
      print(
        f'notice: {workdir} cannot be locked ({error.strerror}); make sure '
        'that only one process uses it',
        file=sys.stderr,
      )
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}')
    file.flush()
    yield


def check_same(theirs, config):
  """Checks that this process has the config of process 0.

  Args:
    theirs: JSON values of the config of process 0.
    config: the config of this process.

  Raises:
    UserError: the configs differ in more than paths on their machines.
  """
  different = _differences(theirs, _json(config), _PLACES | {'eval.cache_dir'})
  if different:
    raise UserError(
      f'process 0 has another config ({"; ".join(different)}); give all '
      'processes the same'
    )


def _json(config):
  return json.loads(json.dumps(config.to_dict()))


def differences(theirs, ours):
  """Returns what keeps a training of one config from going on with another.

  Args:
    theirs: JSON values of a config.
    ours: a ConfigDict.

  Returns:
    A list of 'key: theirs there, ours here', without keys that may change.
  """
  return _differences(theirs, _json(ours), _CHANGEABLE)


def _with_the_same_methods(*configs):
  """Returns configs without the methods that not all of them have.

  Methods do not depend on each other, so a resumed run may have more or fewer.
  """
  sections = [config.get('distillation') or {} for config in configs]
  methods = [section.get('methods') or {} for section in sections]
  common = set.intersection(*map(set, methods))
  return [
    config
    | {'distillation': section | {'methods': {k: its[k] for k in common}}}
    for config, section, its in zip(configs, sections, methods, strict=True)
  ]


def _differences(theirs, ours, ignored, prefix=''):
  """Returns 'key: theirs there, ours here' for each value that differs.

  Args:
    theirs: JSON values of a section of a config.
    ours: JSON values of the section to compare with it.
    ignored: dotted names of keys and sections that may differ.
    prefix: dotted name of the section, with a last dot.
  """
  lines = []
  for key in sorted(theirs.keys() | ours.keys()):
    name, a, b = f'{prefix}{key}', theirs.get(key), ours.get(key)
    own = name  # of a method, it is the name without that of the method
    if name.startswith(_METHODS):
      own = name.removeprefix(_METHODS).partition('.')[2]
    if own in ignored:
      continue
    # A section that an earlier version did not have may be empty.
    if all(isinstance(each, dict | None) for each in (a, b)):
      lines += _differences(a or {}, b or {}, ignored, f'{name}.')
    elif a != b:
      lines.append(f'{name}: {a} there, {b} here')
  return lines


def record_failure(workdir, error):
  """Writes why training failed to the run folder, for the report."""
  files.write_text(pathlib.Path(workdir) / _FAILURE, f'{error}\n')


def forget_failure(workdir):
  """Removes what `record_failure` wrote."""
  (pathlib.Path(workdir) / _FAILURE).unlink(missing_ok=True)


def read_failure(workdir):
  """Returns why training failed, or None."""
  path = pathlib.Path(workdir) / _FAILURE
  return path.read_text(errors='replace').strip() if path.exists() else None
