"""Saving in a thread, while training goes on."""

import concurrent.futures

from diffusion_distillation.runtime import signals


class Saver:
  """Does one thing after the other in a thread; a context manager that waits.

  What goes wrong there is raised by the next call of any method.
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
    """Whether something is still being saved."""
    return self._last is not None and not self._last.done()

  def check(self):
    """Raises what went wrong, if it did."""
    if not self.busy:
      self.wait()

  def wait(self):
    """Waits until all is saved."""
    last, self._last = self._last, None
    if last is not None:
      last.result()

  def start(self, save, *args):
    """Starts save(*args), once what was started before is done.

    From here on, a signal does not end the process before it is saved.
    """
    self.wait()
    signals.begin_saving()
    self._last = self._executor.submit(save, *args)
    self._last.add_done_callback(lambda _: signals.end_saving())
