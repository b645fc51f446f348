"""Compares the time of sampling with that of its network evaluations.

A run of N DDIM steps, in one compiled function on one device, is compared with
N calls of the compiled network at the same batch size. The goal is a ratio of
at most 1.05. Images per second are those of the generator that evaluation uses,
on all devices, including drawing the noise, rounding, and copying to the host.
"""

import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.generation.generator import Generator
from diffusion_distillation.samplers import sample

_MANY = 50_000  # the usual number of images for FID


def rows(subject):
  """Returns the measurements of several step counts, at each batch size.

  Args:
    subject: a Subject.
  """
  counts = (1, 4, 64) if jax.default_backend() == 'cpu' else (1, 4, 64, 1024)
  return [
    _side_by_side(subject, batch_size, num_steps)
    for batch_size in subject.batch_sizes
    for num_steps in counts
  ]


def _side_by_side(subject, batch_size, num_steps):
  card = make_card(
    subject.config,
    subject.dataset,
    num_steps=num_steps,
    sampler='ddim',
    objective=subject.config.objective,
  )
  generator = Generator(card, batch_size)
  draw = generator.drawer(subject.params, card.sampler, batch_size)
  functions = {
    **_on_one_device(subject, card, batch_size),
    'generate': lambda: draw(np.arange(batch_size), num_steps),
  }
  times = timing.interleaved(functions, profile=subject.profile)
  medians = {name: statistics.median(t) for name, t in times.items()}
  teraflop = num_steps * batch_size * subject.flops / 1e12
  return {
    'DDIM steps': num_steps,
    'batch': batch_size,
    'evaluations ms': 1e3 * medians['evaluate'],
    'sampler ms': 1e3 * medians['sample'],
    'sampler/evaluations': timing.ratio(times['sample'], times['evaluate']),
    'generator ms': 1e3 * medians['generate'],
    'images/s': batch_size / medians['generate'],
    'TFLOP/s': teraflop / medians['generate'],
    f's for {_MANY:,} (extrapolated)': _MANY * medians['generate'] / batch_size,
  }


def _on_one_device(subject, card, batch_size):
  """Returns functions that sample a batch, and that only evaluate the network.

  Args:
    subject: a Subject.
    card: Card of the network and of the number of steps.
    batch_size: images of a batch.
  """
  denoiser = card.denoiser()
  params = jax.tree.map(jnp.asarray, subject.params)
  condition = {'label': jnp.asarray(subject.batch(batch_size)['label'])}
  z_1 = jax.random.normal(
    jax.random.key(1), (batch_size, *denoiser.image_shape)
  )
  logsnr = jnp.zeros((batch_size,))

  @jax.jit
  def run(params, z_1, condition, num_steps):
    return sample(
      denoiser.bind(params, condition),
      z_1,
      schedule=card.schedule(),
      num_steps=num_steps,
      sampler=card.sampler,
      clip=card.clip,
    )

  @jax.jit
  def evaluate(params, z, condition, logsnr):
    return denoiser.bind(params, condition)(z, logsnr)

  def evaluate_all():
    for _ in range(card.num_steps):
      x_hat = evaluate(params, z_1, condition, logsnr)
    return x_hat

  num_steps = jnp.int32(card.num_steps)
  return {
    'sample': lambda: run(params, z_1, condition, num_steps),
    'evaluate': evaluate_all,
  }
