"""Small files of a run folder, safe against being killed while writing."""

import contextlib
import errno
import json
import os
import pathlib

import numpy as np

from diffusion_distillation.runtime.errors import DamagedError, UserError

# A disk that cannot be written to.
_FULL = errno.ENOSPC, errno.EDQUOT, errno.EROFS
# What the system says of a file that is damaged, or not there.
_DAMAGE = errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL
# What keeps a good file from being read, as libraries repeat it.
_PASSING = (
  *map(
    os.strerror,
    (
      errno.EIO,
      errno.ENOMEM,
      errno.EMFILE,
      errno.ENFILE,
      errno.EACCES,
      errno.EPERM,
      errno.EAGAIN,
      errno.EBUSY,
      errno.ESTALE,
      errno.ENOTCONN,
      errno.ETIMEDOUT,
      errno.ECONNRESET,
      errno.EHOSTUNREACH,
      errno.ENOLCK,
      errno.ENOSPC,
      errno.EDQUOT,
    ),
  ),
  "can't start new thread",
)


def write_text(path, text):
  """Writes a file whole or not at all."""
  write_bytes(path, text.encode())


def write_bytes(path, data):
  """Writes a file whole or not at all."""
  path = pathlib.Path(path)
  new = path.with_name(f'{path.name}.new')
  with writing(path):
    try:
      with new.open('wb') as file:
        file.write(data)
        _sync(file)
      os.replace(new, path)
    finally:
      new.unlink(missing_ok=True)


def _sync(file):
  """Brings a file to the disk itself: a machine may die, not only a process."""
  file.flush()
  os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path):
  """Names the file in what the system says against writing it.

  Raises:
    UserError: the disk is full, the folder is gone, or not ours to write.
  """
  try:
    yield
  except OSError as error:
    raise UserError(
      f'{path} cannot be written: {error.strerror or error}; what was saved '
      'before is intact, and the same command goes on'
    ) from error


@contextlib.contextmanager
def reading(path):
  """Tells whatever goes wrong while a file is read as DamagedError.

  What a damaged one makes its reader raise is not to be foreseen: of orbax, it
  is often a bare Exception.

  Raises:
    UserError: it is not the checkpoint's fault, which may be good.
    DamagedError: anything else is wrong.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if _is_passing(error):
      raise unreadable(path, error) from error
    raise DamagedError(
      f'{path} cannot be read, it is damaged or not ours: {reason(error)}'
    ) from error


def unreadable(path, error):
  """Returns the UserError of what may be good, but cannot be read for now."""
  return UserError(
    f'{path} cannot be read now: {reason(error)}; nothing was changed; try '
    'again, or move it away'
  )


def _is_passing(error):
  """Returns whether an exception tells of the system, not of the file."""
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno not in _DAMAGE
  said = str(error)
  return isinstance(error, MemoryError) or any(p in said for p in _PASSING)


def reason(error):
  """Returns the first line of what an exception says, or its type."""
  for known in (*map(os.strerror, _FULL), *_PASSING):
    if known in str(error):
      return known  # which libraries say at the end of much else
  first = ' '.join(str(error).strip().split('\n')[0].split())
  return first[:200] or type(error).__name__


def write_npz(path, arrays):
  """Writes a dict of arrays as a .npz, whole or not at all."""
  path = pathlib.Path(path)
  # Other processes may write the same file of a cache.
  new = path.with_name(f'{path.name}.{os.getpid()}.new')
  with writing(path):
    try:
      with new.open('wb') as file:
        np.savez(file, **arrays)
      os.replace(new, path)
    finally:
      new.unlink(missing_ok=True)


def read_jsonl(path, types=()):
  """Returns the JSON lines of a file, without a last one that is torn.

  Args:
    path: of the file, which need not be there.
    types: mapping from what each line must have to the value's type.

  Raises:
    UserError: a line before that is none, or lacks something.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  whole, _, _ = path.read_bytes().rpartition(b'\n')
  try:
    entries = [dict(json.loads(line)) for line in whole.splitlines()]
    for entry in entries:
      for key in types:
        if not isinstance(entry.get(key), types[key]):
          raise ValueError(f'a line has {key!r}: {entry.get(key)!r}')
    return entries
  except (ValueError, TypeError) as error:
    raise UserError(
      f'{path} is damaged ({error}); remove the line, or the file'
    ) from error


def write_jsonl(path, entries):
  """Writes JSON lines, whole or not at all."""
  write_text(path, ''.join(f'{json.dumps(entry)}\n' for entry in entries))


def append_jsonl(path, entry):
  """Adds a JSON line; a torn line before it goes."""
  with writing(path), pathlib.Path(path).open('a+b') as file:
    file.seek(0)
    data = file.read()
    file.truncate(data.rfind(b'\n') + 1)
    file.write(json.dumps(entry).encode() + b'\n')
    _sync(file)
