"""Stopping a run by SIGTERM or SIGINT (Ctrl-C).

While a training loop runs, the first signal asks it to stop: it finishes its
update, saves, and the process exits with `STATUS`. Everywhere else nothing
would be lost, so the signals keep the system's default action, which ends the
process at once.
"""

import contextlib
import os
import signal
import threading

# Exit status of a training that was asked to stop: EX_TEMPFAIL in sysexits.h.
STATUS = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
  """Raised by a training loop that was asked to stop and has saved its state.

  Its argument says where training stopped, such as 'teacher at update 12'.
  """

  def __str__(self):
    return f'stopped {super().__str__()}; rerun the same command to resume'


def use_system_defaults():
  """Gives SIGTERM and SIGINT the system's default action.

  Python turns SIGINT into KeyboardInterrupt, whose traceback does not help a
  user, and which an import or a callback of a library can turn into another
  exception. A signal that the parent process ignores, as shells do for the
  background jobs of scripts, stays ignored.
  """
  for number in _handlers():
    signal.signal(number, signal.SIG_DFL)


def _handlers():
  """Returns the handlers of those of _SIGNALS that are not ignored."""
  handlers = {number: signal.getsignal(number) for number in _SIGNALS}
  return {n: h for n, h in handlers.items() if h != signal.SIG_IGN}


class StopFlag:
  """A flag that the first SIGTERM or SIGINT sets; a context manager.

  Signals act as before until `arm` is called. The first one after that gives
  them back their default action, so that a second signal ends the process.
  Python runs a handler between two operations of the main thread: a signal that
  comes during a long call, such as an update, takes effect when the call
  returns. On leaving the context, the previous handlers are restored.

  An ignored signal does not set the flag. Outside the main thread, where Python
  allows no handlers, no signal does.

  Attributes:
    requested: whether a signal asked the process to stop.
  """

  def __init__(self):
    self.requested = False
    self._is_armed = False
    self._previous = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      self._previous = _handlers()
    return self

  def __exit__(self, *exception):
    self._is_armed = False
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def arm(self):
    """Lets the next signal set the flag; may be called any number of times."""
    if self._previous and not self._is_armed and not self.requested:
      self._is_armed = True
      for number in self._previous:
        signal.signal(number, self._request)

  @contextlib.contextmanager
  def disarmed(self):
    """Gives the signals their default action while the block runs."""
    was_armed = self._is_armed
    self._disarm()
    try:
      yield
    finally:
      if was_armed:
        self.arm()

  def _disarm(self):
    if self._is_armed:
      self._is_armed = False
      use_system_defaults()

  def _request(self, number, frame):
    del number, frame
    self._disarm()
    self.requested = True
    # The signal may interrupt a `print`, and `print` must not be called during
    # another one. Ctrl-C also ends the process that stderr is piped into.
    with contextlib.suppress(OSError):
      os.write(2, b'stopping; a second signal ends the process at once\n')
