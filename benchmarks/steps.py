"""Training and distillation steps: time, arithmetic, memory, and their ratio.

Both go through `devices.compile_step`, as training does, with as many updates
in a dispatch. By count a distillation step costs 5/3 of a training step: three
units for the student, forward and backward, and one for each of the teacher's
two evaluations. The goal is at most 1.75.
"""

import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from diffusion_distillation.objectives.denoising import make_train_step
from diffusion_distillation.objectives.progressive import make_distill_step
from diffusion_distillation.runtime import devices
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state

# In forward passes of the network: backward costs two.
_COST = {'train': 3, 'distill': 5}
_MATRIX = 8192  # large enough for a card's full rate
_NUM_STEPS = 4  # of the student; any number is the same program


def rows(subject):
  """Returns the measurements of both steps, at each batch size."""
  return [
    row
    for batch_size in subject.batch_sizes
    for row in _side_by_side(subject, batch_size)
  ]


def _side_by_side(subject, batch_size):
  train = subject.config.train
  substeps = devices.updates_per_call(train, train.substeps)
  batch = devices.shard([subject.batch(batch_size)] * substeps)
  functions, peaks = {}, {}
  for what, make in (('train', _train), ('distill', _distill)):
    functions[what] = make(subject, batch)
    jax.block_until_ready(functions[what]())
    peaks[what] = _peak_gigabytes()
  if jax.default_backend() != 'cpu':
    functions['matrix'] = _matrix_product()
  times = timing.interleaved(functions, profile=subject.profile)
  of_train = timing.ratio(times['distill'], times['train'])
  rate = None
  if 'matrix' in times:
    seconds = statistics.median(times['matrix'])
    rate = 2 * _MATRIX**3 / seconds / 1e12 * jax.device_count()
  rows = []
  for what, cost in _COST.items():
    seconds = statistics.median(times[what]) / substeps
    teraflops = cost * subject.flops * batch_size / seconds / 1e12
    rows.append(
      {
        'step': what,
        'batch': batch_size,
        'updates/call': substeps,
        'ms/update': 1e3 * seconds,
        'images/s': batch_size / seconds,
        'TFLOP/s': teraflops,
        'distill/train': of_train,
        'matrix TFLOP/s': rate,
        'MFU': rate and teraflops / rate,
        'peak GB, so far': peaks[what],
      }
    )
  return rows


def _train(subject, batch):
  """Returns a function that trains the teacher on the batch, once more."""
  config = teacher_config(subject.config)
  optimizer = make_optimizer(config.train)
  step = make_train_step(subject.denoiser, optimizer, config)
  compiled = devices.compile_step(step, in_axes=(0, 0, None))
  return _repeated(compiled, _state(subject, config, optimizer), (), batch)


def _distill(subject, batch):
  """Returns a function that distills on the batch, once more."""
  config = subject.config
  optimizer = make_optimizer(config.train)
  step = make_distill_step(subject.denoiser, optimizer, config)
  compiled = devices.compile_step(step, in_axes=(0, 0, None, 0, None))
  teacher = devices.replicate(subject.params), jnp.int32(_NUM_STEPS)
  return _repeated(compiled, _state(subject, config, optimizer), teacher, batch)


def _state(subject, config, optimizer):
  state = create_state(
    subject.params,
    optimizer,
    num_updates=10**6,
    ema_decay=config.train.ema_decay,
  )
  return devices.replicate(jax.tree.map(np.asarray, state))


def _repeated(compiled, state, fixed, batch):
  """Returns a function that makes further updates and gives their metrics."""
  key = jax.random.key(1)

  def update():
    nonlocal state
    state, metrics = compiled(state, *fixed, batch, key)
    return metrics

  return update


def _matrix_product():
  """Returns a function that multiplies two large matrices in bfloat16."""
  keys = jax.random.split(jax.random.key(0))
  shape = _MATRIX, _MATRIX
  a, b = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
  product = jax.jit(jnp.matmul)
  return lambda: product(a, b)


def _peak_gigabytes():
  """Returns the most memory that the first device has held, or None."""
  stats = jax.local_devices()[0].memory_stats()
  return stats and stats['peak_bytes_in_use'] / 1e9
