"""How the C library allocates memory: a setting for XLA on CPU."""

import ctypes
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MOST = 2**31 - 1  # bytes


def keep_freed_memory():
  """Makes glibc keep what is freed, instead of giving it back to the kernel.

  On CPU, XLA allocates the memory that a program works in anew for each call.
  By default glibc maps a block beyond 32 MB, and unmaps it when it is freed, so
  that its pages fault again in each update. An update of the digits'
  distillation, which works in 33 MB, had 8,400 faults and took 66 to 70 ms of
  processor time; so it has 2,500 and takes 51 to 54 (2 busy cores, glibc 2.36).
  Blocks beyond 64 MB still fault: threads have heaps of that size, and sharing
  one heap made the digits' updates slower.

  Of the whole process, and from now on. Other C libraries stay as they are.
  """
  if sys.platform != 'linux':
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:
    mallopt(_M_MMAP_THRESHOLD, _MOST)
    mallopt(_M_TRIM_THRESHOLD, _MOST)
