"""Memory that XLA frees is kept for its next call."""

import platform
import subprocess
import sys

COUNT = """
import resource, sys
import numpy as np
from diffusion_distillation.runtime import allocator
if sys.argv[1] == 'keep':
  allocator.keep_freed_memory()
import jax
add = jax.jit(lambda x: x + 1)
x = np.zeros(10_000_000, np.float32)
for _ in range(8):
  add(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
  add(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
  done = subprocess.run(
    [sys.executable, '-c', COUNT, how],
    capture_output=True,
    check=True,
    text=True,
  )
  return int(done.stdout)


def test_freed_memory_is_rarely_mapped_again():
  default, kept = faults('default'), faults('keep')
  if platform.libc_ver()[0] == 'glibc':  # the setting is for glibc only
    # Eight results of 40 MB are 78,000 pages of 4 kB.
    assert default > 77_000
    assert kept < default / 2
