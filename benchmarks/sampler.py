"""The sampler beside the network evaluations that it is made of.

A run of N DDIM steps, the loop of samplers/loop.py in one compiled function,
over N calls of the compiled network at the same batch size, on one device. The
goal is at most 1.05. Images a second are those of evaluation's generator, on
all devices, with its noise, rounding, and the copy to the host.
"""

import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from diffusion_distillation.core import schedules
from diffusion_distillation.generation.generator import Generator
from diffusion_distillation.samplers import sample

_MANY = 50_000  # images, of which FID is measured


def rows(subject):
  """Returns the measurements of step counts, at each batch size."""
  counts = (1, 4, 64) if jax.default_backend() == 'cpu' else (1, 4, 64, 1024)
  return [
    _side_by_side(subject, batch_size, num_steps)
    for batch_size in subject.batch_sizes
    for num_steps in counts
  ]


def _side_by_side(subject, batch_size, num_steps):
  functions = {
    'sample': _sampler(subject, batch_size, num_steps),
    'evaluate': _evaluations(subject, batch_size, num_steps),
    'generate': _generator(subject, batch_size, num_steps),
  }
  times = timing.interleaved(functions, profile=subject.profile)
  medians = {name: statistics.median(t) for name, t in times.items()}
  return {
    'DDIM steps': num_steps,
    'batch': batch_size,
    'evaluations ms': 1e3 * medians['evaluate'],
    'sampler ms': 1e3 * medians['sample'],
    'sampler/evaluations': timing.ratio(times['sample'], times['evaluate']),
    'generator ms': 1e3 * medians['generate'],
    'images/s': batch_size / medians['generate'],
    'TFLOP/s': num_steps
    * batch_size
    * subject.flops
    / medians['generate']
    / 1e12,
    f's for {_MANY:,} (extrapolated)': _MANY * medians['generate'] / batch_size,
  }


def _inputs(subject, batch_size):
  """Returns parameters, noise and labels, on the device."""
  shape = batch_size, *subject.denoiser.image_shape
  z_1 = jax.random.normal(jax.random.key(1), shape)
  labels = jnp.asarray(subject.batch(batch_size)['label'])
  return jax.tree.map(jnp.asarray, subject.params), z_1, labels


def _sampler(subject, batch_size, num_steps):
  """Returns a function that draws a batch, in [-1, 1]."""
  model = subject.config.model

  @jax.jit
  def draw(params, z_1, labels, num_steps):
    return sample(
      subject.denoiser.bind(params, labels),
      z_1,
      schedule=schedules.get_logsnr_schedule(**model.eval_logsnr_schedule),
      num_steps=num_steps,
      clip=model.eval_clip_denoised,
    )

  inputs, num_steps = _inputs(subject, batch_size), jnp.int32(num_steps)
  return lambda: draw(*inputs, num_steps)


def _evaluations(subject, batch_size, count):
  """Returns a function that asks the network `count` times, for x_hat."""

  @jax.jit
  def evaluate(params, z, labels, logsnr):
    return subject.denoiser.bind(params, labels)(z, logsnr)

  inputs, logsnr = _inputs(subject, batch_size), jnp.zeros((batch_size,))

  def evaluations():
    for _ in range(count):
      x_hat = evaluate(*inputs, logsnr)
    return x_hat

  return evaluations


def _generator(subject, batch_size, num_steps):
  """Returns a function that draws a batch as evaluation does, uint8."""
  model, denoiser = subject.config.model, subject.denoiser
  card = {
    'mean_type': model.mean_type,
    'args': model.args.to_dict(),
    'image_shape': denoiser.image_shape,
    'num_classes': denoiser.network.num_classes,
    'logsnr_schedule': model.eval_logsnr_schedule.to_dict(),
    'logvar_type': model.logvar_type,
    'clip': model.eval_clip_denoised,
  }
  generator = Generator(card, batch_size)
  draw = generator.drawer(subject.params, 'ddim', batch_size)
  seeds = np.arange(batch_size)
  return lambda: draw(seeds, num_steps)
