"""Small files that are written whole, and errors that name their path."""

import contextlib
import errno
import json
import os
import pathlib
import sys

import numpy as np

from diffusion_distillation.runtime.errors import UserError


def write_bytes(path, data):
  """Writes a file atomically: it has the old contents or the new ones.

  Args:
    path: path of the file, whose folder must exist.
    data: bytes.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  with _replacing(path, path.with_name(f'{path.name}.new')) as file:
    file.write(data)


def write_text(path, text):
  """Writes a UTF-8 file atomically; see `write_bytes`."""
  write_bytes(path, text.encode())


def write_npz(path, arrays):
  """Writes a mapping of arrays as a .npz file atomically.

  Several processes may write the same path at the same time, such as a file of
  a cache that they share.

  Raises:
    UserError: the file cannot be written.
  """
  path = pathlib.Path(path)
  new = path.with_name(f'{path.name}.{os.getpid()}.new')
  with _replacing(path, new) as file:
    np.savez(file, **arrays)


@contextlib.contextmanager
def _replacing(path, new):
  """Opens a file at `new`, which replaces `path` when the block ends."""
  with writing(path):
    if path.exists() and not path.is_file():  # /dev/null must survive
      raise OSError(errno.EINVAL, 'it is not a regular file')
    try:
      with new.open('wb') as file:
        yield file
        _sync(file)
      os.replace(new, path)
    finally:
      new.unlink(missing_ok=True)


def _sync(file):
  """Flushes a file to the disk, so that it survives a crash of the machine."""
  file.flush()
  os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path):
  """Reports an OSError of its block as one line that names the path.

  Args:
    path: path of the file or folder that the block writes.

  Raises:
    UserError: the block raised an OSError, for example because the disk is
      full.
  """
  try:
    yield
  except OSError as error:
    raise UserError(
      f'cannot write {path}: {reason(error)}; files written before are intact: '
      'fix this, and rerun the same command'
    ) from error


@contextlib.contextmanager
def reading(path):
  """Reports any exception of a library that reads a file as one line.

  On damaged files, libraries raise exceptions of any type; orbax often raises a
  bare Exception. The block should therefore call little except the library.

  Args:
    path: path of the file or folder that the block reads.

  Raises:
    UserError: the block raised an exception.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise UserError(f'cannot read {path}: {reason(error)}') from error


def reason(error):
  """Returns the message of an exception as one line, at most 200 characters."""
  text = getattr(error, 'strerror', None) or str(error)
  first = next((line for line in text.splitlines() if line.strip()), '')
  return ' '.join(first.split())[:200] or type(error).__name__


def read_jsonl(path, types=None):
  """Returns the objects of a file with one JSON object per line.

  A last line without a newline is left out: a process was killed while it wrote
  that line.

  Args:
    path: path of the file; a file that does not exist has no lines.
    types: mapping from a key that every object must have to its type.

  Raises:
    UserError: the file cannot be read, or a line is not such an object.
  """
  path, types, entries = pathlib.Path(path), types or {}, []
  with reading(path):
    data = path.read_bytes() if path.exists() else b''
  whole, _, _ = data.rpartition(b'\n')
  for number, line in enumerate(whole.splitlines(), 1):
    try:
      entry = dict(json.loads(line))
      missing = [k for k in types if not isinstance(entry.get(k), types[k])]
    except (ValueError, TypeError, RecursionError):
      missing = ['JSON']
    if missing:
      raise UserError(
        f'{path} is damaged: line {number} has no valid {missing[0]}; remove '
        'the line, or the file'
      )
    entries.append(entry)
  return entries


def write_jsonl(path, entries):
  """Writes objects as JSON, one per line, atomically; see `write_bytes`."""
  write_text(path, ''.join(f'{json.dumps(entry)}\n' for entry in entries))


def append_jsonl(path, entry):
  """Appends an object as a line of JSON, which replaces an unfinished line.

  Raises:
    UserError: the file cannot be written.
  """
  with writing(path), pathlib.Path(path).open('a+b') as file:
    file.seek(0)
    data = file.read()
    file.truncate(data.rfind(b'\n') + 1)
    file.write(json.dumps(entry).encode() + b'\n')
    _sync(file)


def cache_folder(path, key):
  """Returns a folder for a cache, or None if there cannot be one.

  A cache only saves time: if its folder cannot be used, a notice on stderr says
  so, and the caller works without a cache.

  Args:
    path: path of the folder, which is created if needed; it may begin with '~'.
      None or '' means no cache.
    key: name of the config key that holds the path, for the notice.
  """
  if not path:
    return None
  try:
    folder = pathlib.Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except (RuntimeError, OSError) as error:  # RuntimeError: no home folder
    print(
      f'notice: no cache at {key}={path}: {reason(error)}; set {key} to a '
      'folder that can be written, or to an empty string for no cache',
      file=sys.stderr,
    )
    return None
  return folder
