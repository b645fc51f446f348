"""One line for whatever goes wrong while a file is read."""

import contextlib

from diffusion_distillation.runtime.errors import UserError


@contextlib.contextmanager
def reading(path):
  """Reports what a library raises while it reads a file.

  Args:
    path: of the file.

  Raises:
    UserError: the block raised something; the line names the file.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise UserError(f'cannot read {path}: {one_line(error)}') from error


def one_line(error):
  """Returns the text of an exception as one line of at most 300 characters."""
  text = getattr(error, 'strerror', None) or ' '.join(str(error).split())
  return text[:300] or type(error).__name__
