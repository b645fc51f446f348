"""Being told to stop: SIGTERM and SIGINT end a run in order, and soon.

Whoever has work to lose defers the signal and looks whether there was one. All
else can be killed at any moment, and loses nothing: there the process ends at
once. Not by an exception, which a module that is half imported, or a callback
of another library, turns into something else; and not by way of the
interpreter's own end, which threads of XLA have crashed, and in which a second
signal kills.
"""

import contextlib
import os
import signal
import socket
import threading
import time

# Exit status of a run that was told to stop: EX_TEMPFAIL of sysexits.h. The
# same command goes on.
STATUS = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 5.0  # seconds

_asked = threading.Event()
_deferred = threading.Event()
_interruptible = threading.Event()
_saving = threading.Lock()


@contextlib.contextmanager
def handled():
  """Handles the signals while the block runs; has no effect in other threads.

  Where the main thread is in a long call, such as a compilation, Python's own
  handlers wait for it: a thread then ends the process.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  _asked.clear()
  over = threading.Event()
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  handlers = {number: signal.signal(number, _handle) for number in _SIGNALS}
  descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  watch = threading.Thread(target=_watch, args=(reader, over), daemon=True)
  watch.start()
  try:
    yield
  finally:
    over.set()
    signal.set_wakeup_fd(descriptor)
    for number, handler in handlers.items():
      signal.signal(number, handler)
    writer.close()
    watch.join()
    reader.close()


@contextlib.contextmanager
def deferrable():
  """Gives a function; once it is called, the block looks at `asked` itself."""
  try:
    yield _deferred.set
  finally:
    _deferred.clear()


@contextlib.contextmanager
def interruptible():
  """Raises KeyboardInterrupt within a block that has deferred the signal.

  What is to be saved must be saved, or on its way to it, before: where the
  exception does not come through, the process ends.

  Raises:
    KeyboardInterrupt: there was a signal, be it before.
  """
  _interruptible.set()
  try:
    if asked():
      raise KeyboardInterrupt
    yield
  finally:
    _interruptible.clear()


def ignore():
  """Ignores the signals from now on, where all is done but the process's end.

  The interpreter gives up other handlers before that, and would be killed.
  """
  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      signal.signal(number, signal.SIG_IGN)


def begin_saving():
  """Keeps the process alive until `end_saving`, which any thread may call."""
  _saving.acquire()


def end_saving():
  """Ends what `begin_saving` began."""
  _saving.release()


def asked():
  """Returns whether there was a signal."""
  return _asked.is_set()


def say(text):
  """Writes a line to stderr, if anybody still reads it: Ctrl-C ends a pipe."""
  with contextlib.suppress(OSError):
    os.write(2, f'{text}\n'.encode())


def leave(text='stopped; the same command goes on'):
  """Ends the process, with a line, once nothing is being saved."""
  begin_saving()
  say(text)
  os._exit(STATUS)


def _handle(number, frame):
  del number, frame
  if not _asked.is_set():
    _asked.set()
    say('stopping')
    if _interruptible.is_set():
      raise KeyboardInterrupt
    if not _deferred.is_set():
      leave()


def _watch(reader, over):
  """Ends the process where the main thread is too long about it."""
  while True:
    data = reader.recv(1)
    if not data:
      return
    if data[0] in _SIGNALS:
      break
  if over.wait(_GRACE):
    return
  while _deferred.is_set() and not _interruptible.is_set():
    time.sleep(0.1)
  if not over.is_set():
    leave()
