"""Saving in a thread while training goes on."""

import concurrent.futures


class Saver:
  """Runs one save after the other in a thread; a context manager that waits.

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
    """Raises the exception of the last save, if it has ended with one."""
    if not self.busy:
      self.wait()

  def wait(self):
    """Waits for the last save."""
    last, self._last = self._last, None
    if last is not None:
      last.result()

  def start(self, save, *args):
    """Starts save(*args), after the save before has ended."""
    self.wait()
    self._last = self._executor.submit(save, *args)
