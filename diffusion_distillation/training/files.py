"""Small files of a run folder, safe against being killed while writing."""

import contextlib
import errno
import json
import os
import pathlib

import numpy as np

from diffusion_distillation.errors import DamagedError, UserError


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
  """Tells whatever goes wrong while a checkpoint is read as DamagedError.

  What a damaged one makes its reader raise is not to be foreseen: of orbax, it
  is often a bare Exception.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise DamagedError(
      f'{path} cannot be read, it is damaged or not ours: {reason(error)}'
    ) from error


def reason(error):
  """Returns the first line of what an exception says, or its type."""
  for known in map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
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


def read_jsonl(path):
  """Returns the JSON lines of a file, without a last one that is torn.

  Raises:
    UserError: a line before that is none.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  whole, _, _ = path.read_text().rpartition('\n')
  try:
    entries = [json.loads(line) for line in whole.splitlines()]
    return [dict(entry) for entry in entries]
  except (ValueError, TypeError) as error:
    raise UserError(
      f'{path} is damaged ({error}); remove the line, or the file'
    ) from error


def write_jsonl(path, entries):
  """Writes JSON lines, whole or not at all."""
  write_text(path, ''.join(f'{json.dumps(entry)}\n' for entry in entries))


def append_jsonl(path, entry):
  """Adds a JSON line; a torn line before it goes."""
  with writing(path), pathlib.Path(path).open('a+') as file:
    file.seek(0)
    text = file.read()
    if not text.endswith('\n'):
      file.truncate(len(text[: text.rfind('\n') + 1].encode()))
    file.write(json.dumps(entry) + '\n')
    _sync(file)
