"""A process of a toy training, for test_processes.

python -m tests.runtime.worker FOLDER ACTION [ADDRESS PROCESS_ID]

Without an address, the processes find each other by Slurm's environment.
"""

import json
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.runtime import devices, files, processes, signals
from diffusion_distillation.runtime.errors import UserError

NUM_UPDATES = 16
# The value that process 0 sends: a negative zero and a NaN with a payload must
# arrive unchanged.
FLOATS = np.random.RandomState(0).standard_normal(1000).astype(np.float32)
FLOATS.view(np.uint32)[:2] = 2**31, 0x7FC12345
MESSAGE = {'step': np.int32(3), 'card': {'a.b': [1, 2.5, 'c', None, True]}}


def step(state, batch, key):
  """Updates a number by the mean of the batch and by noise.

  The mean is exact: its bits do not depend on the order of a sum.
  """
  x = jax.lax.pmean(jnp.mean(batch['x']), 'batch')
  w = (
    state['w'] / 2 + x + jax.random.normal(jax.random.fold_in(key, state['n']))
  )
  return {'w': w, 'n': state['n'] + 1}, {'loss': w}


def train(folder, act=lambda updates: None):
  """Returns the number after all updates; resumes from FOLDER/state.npz.

  Args:
    folder: path.
    act: called with the number of updates before each of them.
  """
  path, state = folder / 'state.npz', {'w': np.float32(1), 'n': np.int32(0)}
  if processes.is_main() and path.exists():
    with np.load(path) as file:
      state = dict(file)
  state = devices.replicate(processes.broadcast(state))
  updates, first = int(devices.unreplicate(state)['n']), jax.process_index()
  compiled = devices.compile_step(step, in_axes=(0, 0, None))
  with signals.StopFlag() as stop:
    while updates < NUM_UPDATES:
      act(updates)
      batch = np.arange(4, dtype=np.float32) + updates
      here = batch[first :: jax.process_count()]
      shards = devices.shard([{'x': here}])
      state, _ = compiled(state, shards, jax.random.key(0))
      stop.arm()
      updates += 1
      last = updates == NUM_UPDATES
      is_stopped = processes.agree_to_stop(stop.requested, last=last)
      if processes.is_main():
        files.write_npz(path, devices.unreplicate(state))
      if is_stopped:
        if processes.is_main():
          time.sleep(1)  # saving may take longer than the others need
        raise signals.Stopped(f'toy at update {updates}')
  return float(devices.unreplicate(state)['w'])


def listen(folder):
  """Writes whether this process received what process 0 sent."""
  main = processes.is_main()
  said = {'floats': FLOATS, **MESSAGE}
  heard = processes.broadcast(said if main else None)
  result = {
    'same': heard.pop('floats').tobytes() == FLOATS.tobytes(),
    'message': heard == MESSAGE,
    'none': processes.broadcast(None if main else 1) is None,
    'gathered': devices.gather(np.arange(3) + 10 * (not main)).tolist(),
  }
  path = folder / f'heard_{jax.process_index()}.json'
  path.write_text(json.dumps(result))


def run(folder, action):
  """Trains, with the interruption that the action names."""
  main = processes.is_main()

  def act(updates):
    if action == 'interrupt' and updates == 4 and not main:
      os.kill(os.getpid(), signal.SIGINT)
    if action == 'die' and updates == 9 and not main:
      os.kill(os.getpid(), signal.SIGKILL)
    if action == 'fail' and updates == 11 and main:
      raise UserError('no such image')

  if action == 'early':
    if main:
      os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
  if action == 'interrupt':
    listen(folder)
  if action == 'fail':
    processes.broadcast(None)
    if main:
      time.sleep(3)  # measures, for longer than a collective waits by default
    processes.broadcast(None)
  train(folder, act)


def main():
  folder, action, *where = sys.argv[1:]
  where = (where[0], 2, int(where[1])) if where else ()
  signals.use_system_defaults()
  processes._CHUNK = 1000  # so that a broadcast takes several
  processes._HEARTBEAT_SECONDS = 5
  try:
    with processes.joined(*where):
      run(pathlib.Path(folder), action)
  except UserError as error:
    sys.exit(f'error: {error}')
  except signals.Stopped as stop:
    print(stop, file=sys.stderr)
    sys.exit(signals.STATUS)


if __name__ == '__main__':
  main()
