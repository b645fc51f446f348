"""Signals: deferred, raised, or the end of the process."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from diffusion_distillation.runtime import signals

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize('number', SIGNALS)
def test_a_block_that_defers_looks_itself(number):
  with signals.handled(), signals.deferrable() as defer:
    assert not signals.asked()
    defer()
    for _ in range(2):  # a second one changes nothing
      os.kill(os.getpid(), number)
    assert signals.asked()


def test_within_it_a_part_can_be_interrupted():
  with signals.handled(), signals.deferrable() as defer:
    defer()
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
      os.kill(os.getpid(), signal.SIGTERM)
    # One that came before is not lost.
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
      raise AssertionError


def test_what_was_before_is_restored():
  before = [signal.getsignal(number) for number in SIGNALS]
  with signals.handled():
    assert [signal.getsignal(number) for number in SIGNALS] != before
  assert [signal.getsignal(number) for number in SIGNALS] == before
  # One run's signal is not the next one's, in a process that goes on.
  with signals.handled(), signals.deferrable() as defer:
    defer()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.asked()
  with signals.handled():
    assert not signals.asked()


def test_other_threads_have_no_signals():
  seen = []

  def body():
    with signals.handled():
      seen.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=body)
  thread.start()
  thread.join()
  assert seen == [before]


def in_a_process(body):
  """Returns status and words of a process that gets SIGTERM in a long call."""
  code = f"""
import os, signal, threading, time
from diffusion_distillation.runtime import signals

signals._GRACE = 0.3

def tell():
  time.sleep(0.2)
  os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=tell).start()
{textwrap.dedent(body)}
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  return done.returncode, done.stdout + done.stderr


def test_a_long_call_ends_with_the_process():
  # A lock that is never free, as a compilation: Python's handler has to wait.
  status, said = in_a_process("""
  lock = threading.Lock()
  lock.acquire()
  with signals.handled():
    signal.signal(signal.SIGTERM, lambda *args: None)
    lock.acquire(timeout=30)
  """)
  assert status == signals.STATUS
  assert 'the same command goes on' in said


def test_a_long_call_in_a_part_that_can_be_interrupted_does_so_too():
  """As a compilation in an evaluation: what is to be saved was saved before."""
  status, said = in_a_process("""
  lock = threading.Lock()
  lock.acquire()
  with signals.handled(), signals.deferrable() as defer:
    defer()
    signal.signal(signal.SIGTERM, lambda *args: None)
    with signals.interruptible():
      lock.acquire(timeout=30)
  """)
  assert status == signals.STATUS
  assert 'the same command goes on' in said


@pytest.mark.parametrize('number', SIGNALS)
def test_where_nothing_is_to_lose_the_process_ends_at_once(number):
  """And not by an exception: `import` makes another one of it."""
  status, said = in_a_process(f"""
  try:
    with signals.handled():
      os.kill(os.getpid(), {int(number)})
  except BaseException as error:
    print('raised', error, flush=True)
  """)
  assert status == signals.STATUS
  assert said.splitlines() == [
    'stopping',
    'stopped; the same command goes on',
  ]


def signalled_until_it_ends(code):
  """Returns status and words of a process that gets signals all the time."""
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    while process.poll() is None:
      for number in SIGNALS:
        process.send_signal(number)
      time.sleep(0.002)
    return process.returncode, process.stderr.read().splitlines()


def test_more_signals_do_not_kill_a_process_on_its_way_out():
  code = """
import threading, time
from diffusion_distillation.runtime import signals
with signals.handled(), signals.deferrable() as defer:
  defer()
  print('ready', flush=True)
  while not signals.asked():
    time.sleep(0.01)
  signals.begin_saving()
  threading.Timer(0.5, signals.end_saving).start()
  signals.leave('stopped at update 3')
"""
  assert signalled_until_it_ends(code) == (
    signals.STATUS,
    ['stopping', 'stopped at update 3'],
  )


def test_where_all_is_done_a_signal_is_nothing():
  """Not even while the interpreter ends, which drops handlers of Python's."""
  code = """
import time
from diffusion_distillation.runtime import signals
class Late:
  def __del__(self):
    time.sleep(0.3)
late = Late()
signals.ignore()
print('ready', flush=True)
"""
  assert signalled_until_it_ends(code) == (0, [])


def test_a_save_that_has_begun_is_finished_before():
  status, said = in_a_process("""
  from diffusion_distillation.checkpoints.saver import Saver

  def save():
    time.sleep(1)
    print('saved', flush=True)

  with signals.handled(), Saver() as saver:
    saver.start(save)
    time.sleep(30)
  """)
  assert status == signals.STATUS
  assert said.index('saved') < said.index('the same command goes on')


def test_a_signal_counts_where_stderr_is_read_no_more():
  """As Ctrl-C on `main.py 2>&1 | tee log`, which ends tee first."""
  reader, writer = os.pipe()
  kept = os.dup(2)
  os.dup2(writer, 2)
  os.close(writer)
  os.close(reader)
  try:
    with signals.handled(), signals.deferrable() as defer:
      defer()
      os.kill(os.getpid(), signal.SIGTERM)
      asked = signals.asked()
  finally:
    os.dup2(kept, 2)
    os.close(kept)
  assert asked
