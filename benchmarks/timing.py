"""Times of functions, measured side by side."""

import contextlib
import statistics
import time

import jax

_SECONDS = 0.5  # approximate length of one function's turn
_TURNS = 15
# Functions whose turns take long get fewer of them, within this many seconds.
_LONGEST = 60
_FEWEST_TURNS = 5


def interleaved(functions, profile=None):
  """Returns the seconds that a call of each function takes, turn by turn.

  The functions take turns, A B A B, so that other work on the machine and its
  temperature affect all of them alike. In its turn, a function is called for
  about half a second, without waiting for the device between the calls.

  Args:
    functions: mapping from names to functions without arguments that return
      arrays. The first call, which compiles, is not timed.
    profile: folder for a profiler trace of one call of each function, or None.

  Returns:
    Mapping from names to lists of seconds, one for each turn.
  """
  calls, turn = {}, 0.0
  for name, function in functions.items():
    jax.block_until_ready(function())
    once = _seconds(function, 1)
    calls[name] = max(1, round(_SECONDS / once))
    turn += calls[name] * once
  times = {name: [] for name in functions}
  turns = max(_FEWEST_TURNS, min(_TURNS, round(_LONGEST / turn)))
  for _ in range(turns):
    for name, function in functions.items():
      times[name].append(_seconds(function, calls[name]))
  trace = jax.profiler.trace(profile) if profile else contextlib.nullcontext()
  with trace:
    for name, function in functions.items():
      with jax.profiler.TraceAnnotation(name):
        jax.block_until_ready(function())
  return times


def _seconds(function, calls):
  """Returns the mean seconds of some calls of a function."""
  started = time.perf_counter()
  for _ in range(calls):
    result = function()
  jax.block_until_ready(result)
  return (time.perf_counter() - started) / calls


def ratio(times, other):
  """Returns the median over the turns of the ratio of two functions' times."""
  return statistics.median(a / b for a, b in zip(times, other, strict=True))
