"""Signals set a flag in a training loop, and end the process elsewhere."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from diffusion_distillation.runtime import signals

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(body, stderr=subprocess.PIPE, inherited='SIG_DFL'):
  """Returns the status and the output of a process that runs the body.

  Args:
    body: text of the program.
    stderr: stderr of the process.
    inherited: handler of SIGTERM and SIGINT that the process inherits.
  """
  code = f"""
import os, signal, sys
from diffusion_distillation.runtime import signals

def kill(name):
  os.kill(os.getpid(), getattr(signal, name))

for number in (signal.SIGTERM, signal.SIGINT):
  signal.signal(number, signal.{inherited})
signals.use_system_defaults()
{textwrap.dedent(body)}
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=stderr,
    text=True,
    timeout=60,
    check=False,
  )
  return done.returncode, done.stdout.split()


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
@pytest.mark.parametrize(
  'body',
  [
    'kill({name!r})',
    # The flag is not armed yet: the first update still compiles.
    """
    with signals.StopFlag():
      kill({name!r})
    """,
    """
    with signals.StopFlag() as stop:
      stop.arm()
      with stop.disarmed():
        kill({name!r})
    """,
    """
    with signals.StopFlag() as stop:
      stop.arm()
    kill({name!r})
    """,
  ],
)
def test_outside_of_the_loop_a_signal_ends_the_process(body, name):
  body = f'{textwrap.dedent(body).format(name=name)}\nprint("survived")'
  assert run(body) == (-getattr(signal, name), [])


@pytest.mark.parametrize('second', ['SIGTERM', 'SIGINT'])
def test_the_first_signal_sets_a_flag_and_the_second_ends_the_process(second):
  status, words = run(f"""
  with signals.StopFlag() as stop:
    for _ in range(3):
      stop.arm()
      stop.arm()
    print(stop.requested, flush=True)
    kill('SIGTERM')
    stop.arm()
    with stop.disarmed():
      pass
    print(stop.requested, flush=True)
    kill({second!r})
  print('survived')
  """)
  assert (status, words) == (-getattr(signal, second), ['False', 'True'])


def test_a_flag_works_again_after_an_evaluation():
  status, words = run("""
  with signals.StopFlag() as stop:
    stop.arm()
    with stop.disarmed():
      pass
    kill('SIGINT')
    print(stop.requested)
  """)
  assert (status, words) == (0, ['True'])


def test_a_signal_that_the_parent_ignores_stays_ignored():
  status, words = run(
    """
    with signals.StopFlag() as stop:
      stop.arm()
      kill('SIGINT')
      kill('SIGTERM')
      with stop.disarmed():
        kill('SIGINT')
      print(stop.requested)
    kill('SIGTERM')
    print('survived')
    """,
    inherited='SIG_IGN',
  )
  assert (status, words) == (0, ['False', 'survived'])


def test_a_signal_counts_when_stderr_is_closed():
  """On Ctrl-C, `main.py 2>&1 | tee log` loses its reader first."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer) as stderr:
    status, words = run(
      """
      with signals.StopFlag() as stop:
        stop.arm()
        kill('SIGINT')
        print(stop.requested)
      """,
      stderr,
    )
  assert (status, words) == (0, ['True'])


def test_handlers_from_before_are_restored():
  before = [signal.getsignal(number) for number in SIGNALS]
  with signals.StopFlag() as stop:
    stop.arm()
    assert [signal.getsignal(number) for number in SIGNALS] != before
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested
  assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_leave_the_signals_alone():
  seen = []

  def body():
    with signals.StopFlag() as stop:
      stop.arm()
      with stop.disarmed():
        seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

  thread = threading.Thread(target=body)
  thread.start()
  thread.join()
  assert seen == [(signal.getsignal(signal.SIGTERM), False)]


def test_the_message_of_stopped_has_one_line():
  assert str(signals.Stopped('teacher at update 12')) == (
    'stopped teacher at update 12; rerun the same command to resume'
  )
