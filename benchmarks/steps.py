"""Training and distillation steps: their time, arithmetic, memory and ratio.

By count a distillation step costs 5/3 of a training step: forward and backward
pass of the student cost three forward passes, and each of the teacher's two
evaluations costs one. The goal is a ratio of at most 1.75.
"""

import statistics

import jax
import jax.numpy as jnp

from benchmarks import timing
from diffusion_distillation.runtime import devices

_GRADIENT_PASSES = 3  # a backward pass costs two forward passes
_MATRIX_SIZE = 8192  # large enough for the full rate of an accelerator


def rows(subject):
  """Returns the measurements of both steps, at each batch size.

  Args:
    subject: a Subject with a teacher and students.
  """
  return [
    row
    for batch_size in subject.batch_sizes
    for row in _side_by_side(subject, batch_size)
  ]


def _side_by_side(subject, batch_size):
  train = subject.config.train
  per_call = devices.updates_per_call(train, train.substeps)
  batches = devices.shard([subject.batch(batch_size)] * per_call)
  trainings = {
    training.step_name.removesuffix('_step'): training
    for training in subject.teacher_and_students()
  }
  functions, peaks = {}, {}
  for name, training in trainings.items():
    functions[name] = subject.updater(training, batches)
    jax.block_until_ready(functions[name]())
    peaks[name] = _peak_gigabytes()
  if jax.default_backend() != 'cpu':
    functions['matrix'] = _matrix_product()
  times = timing.interleaved(functions, profile=subject.profile)
  ratio = timing.ratio(times['distill'], times['train'])
  rate = None
  if 'matrix' in times:
    seconds = statistics.median(times['matrix'])
    rate = 2 * _MATRIX_SIZE**3 / seconds / 1e12 * jax.device_count()
  rows = []
  for name, training in trainings.items():
    seconds = statistics.median(times[name]) / per_call
    passes = _GRADIENT_PASSES + training.objective.extra_passes
    teraflops = passes * subject.flops * batch_size / seconds / 1e12
    rows.append(
      {
        'step': name,
        'batch': batch_size,
        'updates/call': per_call,
        'ms/update': 1e3 * seconds,
        'images/s': batch_size / seconds,
        'TFLOP/s': teraflops,
        'distill/train': ratio,
        'matrix TFLOP/s': rate,
        'MFU': rate and teraflops / rate,
        'peak GB, so far': peaks[name],
      }
    )
  return rows


def _matrix_product():
  """Returns a function that multiplies two large matrices in bfloat16."""
  keys = jax.random.split(jax.random.key(0))
  shape = _MATRIX_SIZE, _MATRIX_SIZE
  a, b = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
  product = jax.jit(jnp.matmul)
  return lambda: product(a, b)


def _peak_gigabytes():
  """Returns the most memory that the first device has used, or None."""
  stats = jax.local_devices()[0].memory_stats()
  return stats and stats['peak_bytes_in_use'] / 1e9
