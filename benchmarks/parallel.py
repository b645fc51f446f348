"""DDIM with all of its steps in parallel, on one device and on several.

JAX_NUM_CPU_DEVICES=4 python -m benchmarks --suite=parallel
  --checkpoint=runs/digits/teacher --batch_size=1

The same noise is sampled by DDIM, step by step on one device, and by each
method on 1, 2 and 4 devices, if there are so many. The devices split the steps
of a sweep. CPU devices share the cores, so they only show what splitting costs.
"""

import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from diffusion_distillation.samplers import sample
from diffusion_distillation.samplers.parallel import METHODS, parallel_sample

_STEPS = 64
_WINDOW = 16
_DEVICES = (1, 2, 4)


def rows(subject):
  """Returns the time and the evaluations of each method and number of devices.

  Args:
    subject: a Subject with trained weights.
  """
  checkpoint = subject.trained()
  return [
    row
    for batch_size in subject.batch_sizes
    for row in _side_by_side(checkpoint, batch_size, subject.profile)
  ]


def _side_by_side(checkpoint, batch_size, profile):
  card = checkpoint.card
  settings = {
    'schedule': card.schedule(),
    'num_steps': _STEPS,
    'clip': card.clip,
  }
  condition = {'label': jnp.arange(batch_size) % card.num_classes}
  key = jax.random.key(0)
  z_1 = jax.random.normal(key, (batch_size, *card.image_shape))
  weights = jax.tree.map(jnp.asarray, checkpoint.weights)

  @jax.jit
  def one_by_one(weights, z_1):
    denoise = card.denoiser().bind(weights, condition)
    return sample(denoise, z_1, **settings)

  def in_parallel(method, devices):
    devices = jax.devices()[:devices]
    options = {'size': _WINDOW} if method == 'window' else {}

    @jax.jit
    def run(weights, z_1):
      denoise = card.denoiser().bind(weights, condition)
      images, info = parallel_sample(
        denoise, z_1, method=method, devices=devices, **settings, **options
      )
      return images, info._replace(states=None)

    return lambda: run(weights, z_1)

  compared = {
    f'{method} {devices}': in_parallel(method, devices)
    for devices in _DEVICES
    if devices <= len(jax.devices())
    for method in METHODS
  }
  want = one_by_one(weights, z_1)
  results = {name: function() for name, function in compared.items()}
  times = timing.interleaved(
    {'ddim': lambda: one_by_one(weights, z_1), **compared}, profile
  )
  found = []
  for name, (images, info) in results.items():
    method, devices = name.split()
    found.append(
      {
        'method': method,
        'devices': int(devices),
        'batch': batch_size,
        'in sequence': int(info.sweeps.max()),
        'evaluations/DDIM': int(info.evaluations) / (_STEPS * batch_size),
        'ms': 1e3 * statistics.median(times[name]),
        'DDIM ms': 1e3 * statistics.median(times['ddim']),
        'time/DDIM': timing.ratio(times[name], times['ddim']),
        'difference': float(np.abs(images - want).max()),
      }
    )
  return found
