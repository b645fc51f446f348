"""Times of functions, measured side by side."""

import contextlib
import statistics
import time

import jax

_REPEATS = 15
_SECONDS = 0.5  # about, of one repeat of one function


def interleaved(functions, *, repeats=_REPEATS, seconds=_SECONDS, profile=None):
  """Returns the seconds of a call of each function, a list of each repeat.

  They take turns, A B A B, so that whatever else the machine does, or how warm
  it is, touches them alike. In its turn each is called again and again for
  about `seconds`, without waiting for the device in between.

  Args:
    functions: mapping from names to functions without arguments, which return
      arrays; the first call, which compiles, is not timed.
    repeats: turns of each.
    seconds: of a turn.
    profile: folder for a trace of one call of each, or None.
  """
  calls = {}
  for name, function in functions.items():
    jax.block_until_ready(function())
    calls[name] = max(1, round(seconds / _seconds(function, 1)))
  times = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      times[name].append(_seconds(function, calls[name]))
  trace = jax.profiler.trace(profile) if profile else contextlib.nullcontext()
  with trace:
    for name, function in functions.items():
      with jax.profiler.TraceAnnotation(name):
        jax.block_until_ready(function())
  return times


def _seconds(function, calls):
  """Returns the seconds of a call, the mean of some."""
  started = time.perf_counter()
  for _ in range(calls):
    result = function()
  jax.block_until_ready(result)
  return (time.perf_counter() - started) / calls


def ratio(times, other):
  """Returns the median, over the repeats, of two functions' ratio."""
  return statistics.median(a / b for a, b in zip(times, other, strict=True))
