"""One process of several, for test_processes.

python -m tests.runtime.worker train DEVICES DIES_AT [flags of main.py]
python -m tests.runtime.worker talk ADDRESS PROCESS_ID FILE
python -m tests.runtime.worker stop ADDRESS PROCESS_ID FILE
"""

import json
import os
import pathlib
import runpy
import signal
import sys
import time

import flax.linen as nn
import jax
import numpy as np

from diffusion_distillation.networks import denoiser
from diffusion_distillation.runtime import devices, processes


class Toy(nn.Module):
  """Stands in for the UNet's arithmetic, and compiles in no time."""

  num_classes: int
  out_ch: int

  @nn.compact
  def __call__(self, x, logsnr, y, **options):
    del options
    h = nn.Dense(16)(x.reshape(len(x), -1)) + logsnr[:, None] / 20
    h = nn.tanh(h + nn.Embed(self.num_classes, 16)(y))
    h = nn.Dense(x[0].size // x.shape[-1] * self.out_ch)(h)
    return h.reshape(*x.shape[:-1], self.out_ch)


def build_toy(num_classes, out_ch, **args):
  """Returns a Toy in place of a UNet."""
  del args
  return Toy(num_classes, out_ch)


def train(devices, dies_at, *flags):
  """Runs main.py; is killed when it makes batch number `dies_at`."""
  jax.config.update('jax_num_cpu_devices', int(devices))
  denoiser.UNet = build_toy
  shard, calls = devices.shard, []

  def counted(batches):
    calls.append(batches)
    if len(calls) == int(dies_at):
      os.kill(os.getpid(), signal.SIGKILL)
    return shard(batches)

  devices.shard = counted
  sys.argv = ['main.py', *flags]
  runpy.run_path('main.py', run_name='__main__')


def talk(address, process_id, file):
  """Writes what it hears from process 0, which then is killed."""
  jax.config.update('jax_num_cpu_devices', 2)
  main = int(process_id) == 0
  with processes.joined(address, 2, int(process_id)):
    floats = np.random.RandomState(0).standard_normal((300, 7, 11))
    floats = floats.astype(np.float32)
    # A negative zero, and a NaN that carries a number.
    floats.view(np.uint32)[0, 0, :2] = 2**31, 0x7FC12345
    said = {
      'arrays': {f'{i}': leaf for i, leaf in enumerate(floats)},
      'step': np.asarray(3, np.int32),
      'card': {'a.b': [1, 2.5, 'c', None, True]},
    }
    heard = processes.broadcast(said if main else None)
    arrays = np.stack([heard['arrays'][str(i)] for i in range(300)])
    stops = [processes.agree_to_stop(i == 5 and not main) for i in range(10)]
    result = {
      'same': arrays.tobytes() == floats.tobytes(),
      'step': [str(heard['step'].dtype), int(heard['step'])],
      'card': heard['card'],
      'none': processes.broadcast(None if main else 1),
      'gathered': devices.gather(np.arange(3) + 10 * (not main)).tolist(),
      'stops': stops.index(True),
    }
    pathlib.Path(file).write_text(json.dumps(result))
    processes.broadcast(None)
    if main:
      os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def stop(address, process_id, file):
  """Is interrupted, as process 1 was asked to stop; writes when it was."""
  jax.config.update('jax_num_cpu_devices', 2)
  main = int(process_id) == 0
  try:
    with processes.joined(address, 2, int(process_id)):
      for i in range(100):
        if processes.agree_to_stop(i >= 5 and not main):
          break
      if main:
        time.sleep(1)  # the others would end it if they were gone by now
      pathlib.Path(file).write_text(str(i))
      raise KeyboardInterrupt
  except KeyboardInterrupt:
    sys.exit(processes.STATUS)


if __name__ == '__main__':
  processes._HEARTBEAT_SECONDS = 10  # as 30, but sooner
  command, *arguments = sys.argv[1:]
  {'train': train, 'talk': talk, 'stop': stop}[command](*arguments)
