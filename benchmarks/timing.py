"""Times of functions, measured side by side."""

import contextlib
import statistics
import time

import jax

_SECONDS = 0.5  # about, of a turn of one function
_TURNS = 15
# Where a call alone takes long: fewer turns, lest they take longer in all.
_FEWEST_TURNS = 5
_LONGEST = 60  # seconds


def interleaved(functions, profile=None):
  """Returns the seconds of a call of each function, a list of all turns.

  They take turns, A B A B, so that whatever else the machine does, or how warm
  it is, touches them alike. In its turn each is called again and again for half
  a second, without waiting for the device in between.

  Args:
    functions: mapping from names to functions without arguments, which return
      arrays; the first call, which compiles, is not timed.
    profile: folder for a trace of one call of each, or None.
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
  """Returns the seconds of a call, the mean of some."""
  started = time.perf_counter()
  for _ in range(calls):
    result = function()
  jax.block_until_ready(result)
  return (time.perf_counter() - started) / calls


def ratio(times, other):
  """Returns the median, over the turns, of two functions' ratio."""
  return statistics.median(a / b for a, b in zip(times, other, strict=True))
