"""Compares the time of sampling with that of its network evaluations.

A run of N steps of a sampler, in one compiled function on one device, is
compared with as many calls of the compiled network as it makes, at the same
batch size. The goal is a ratio of at most 1.05. Images per second are those of
the generator that evaluation uses, on all devices, including drawing the noise,
rounding, and copying to the host.
"""

import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.generation.generator import Generator
from diffusion_distillation.samplers import make_sampler, sample

_MANY = 50_000  # the usual number of images for FID
# Measured in 16 steps, besides DDIM: one of each family.
_SAMPLERS = (
  'ancestral',
  'heun',
  'dpmpp_3s',
  'dpmpp_2m',
  'unipc',
  'reverse_diffusion',
  'predictor_corrector',
)


def rows(subject):
  """Returns the measurements of samplers and step counts, at each batch size.

  Args:
    subject: a Subject.
  """
  counts = (1, 4, 64) if jax.default_backend() == 'cpu' else (1, 4, 64, 1024)
  cases = [('ddim', num_steps) for num_steps in counts]
  cases += [(sampler, 16) for sampler in _SAMPLERS]
  return [
    _side_by_side(subject, batch_size, sampler, num_steps)
    for batch_size in subject.batch_sizes
    for sampler, num_steps in cases
  ]


def _side_by_side(subject, batch_size, sampler, num_steps):
  card = make_card(
    subject.config,
    subject.dataset,
    num_steps=num_steps,
    sampler=sampler,
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
  nfe = make_sampler(sampler).nfe(num_steps)
  teraflop = nfe * batch_size * subject.flops / 1e12
  return {
    'sampler': sampler,
    'steps': num_steps,
    'NFE': nfe,
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
    card: Card of the network, the sampler and the number of steps.
    batch_size: images of a batch.
  """
  denoiser = card.denoiser()
  params = jax.tree.map(jnp.asarray, subject.params)
  condition = {'label': jnp.asarray(subject.batch(batch_size)['label'])}
  z_1 = jax.random.normal(
    jax.random.key(1), (batch_size, *denoiser.image_shape)
  )
  logsnr = jnp.zeros((batch_size,))

  nfe = make_sampler(card.sampler).nfe(card.num_steps)

  @jax.jit
  def run(params, z_1, condition, num_steps):
    return sample(
      denoiser.bind(params, condition),
      z_1,
      schedule=card.schedule(),
      num_steps=num_steps,
      sampler=card.sampler,
      clip=card.clip,
      key=jax.random.key(2),
    )

  @jax.jit
  def evaluate(params, z, condition, logsnr):
    return denoiser.bind(params, condition)(z, logsnr)

  def evaluate_all():
    for _ in range(nfe):
      x_hat = evaluate(params, z_1, condition, logsnr)
    return x_hat

  num_steps = jnp.int32(card.num_steps)
  return {
    'sample': lambda: run(params, z_1, condition, num_steps),
    'evaluate': evaluate_all,
  }
