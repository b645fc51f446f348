"""How probable images are to a model: exact likelihood and variational bound.

Both are in bits per dimension, the negative base-2 logarithm of the probability
of an image of bytes, divided by its number of pixels and channels.

The probability flow (Eq. 5 of core/process.py) carries data into noise, and the
density with it, by the instantaneous change of variables (Song et al. 2021,
arXiv 2011.13456, appendix D.2). From the least noise, where z := x, to the
most, where z is standard normal,

  log p(x) = log N(z_1; 0, I) + integral of div(dz / dlogsnr) dlogsnr,
  div(f) = E[probe^T (df / dz) probe],

where the expectation is estimated by one draw of a probe of random signs for
the whole way (Hutchinson and Skilling; Rademacher). For isotropic Gaussian
data, whose df / dz is a multiple of I, this estimate has no variance. x_hat is
not clipped.

A density gives no probability to single bytes, so each byte is given a cell of
the real line, and u, uniform in [0, 1), chooses a point in it
(`DEQUANTIZATIONS`):

  x = (byte + u - shift) / scale - 1,
  bits per dimension = -log2 p(x) / D + log2(scale).

By Jensen's inequality, this is on average an upper bound on the bits of the
bytes. Our images are byte / 127.5 - 1. 'centered' takes the cells of width
1 / 127.5 around these values: shift 1/2, scale 127.5, and the offset is
log2(127.5) = 6.994.
'score_sde' is x = 2 (byte + u) / 256 - 1, for models of that data: shift 0,
scale 128, offset 7. (Its offset of 8 belongs to data in [0, 1].)
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from diffusion_distillation.core import process, schedules
from diffusion_distillation.runtime import devices
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress
from diffusion_distillation.samplers import adaptive

# Folded into the keys of images, so that they differ from those of samples.
_DOMAIN = int.from_bytes(b'like')


class Dequantization(NamedTuple):
  """A cell of the real line for each byte; see the head of this file."""

  shift: float
  scale: float

  def __call__(self, images, u):
    """Returns x of uint8 images and of u, uniform in [0, 1)."""
    return (images + u - self.shift) / self.scale - 1

  def bits_per_dim(self, log_density):
    """Returns bits per dimension from log p(x) / D, which is in nats."""
    return math.log2(self.scale) - log_density / math.log(2)


DEQUANTIZATIONS = {
  'centered': Dequantization(0.5, 127.5),
  'score_sde': Dequantization(0.0, 128.0),
}


class Flow(NamedTuple):
  """Result of `flow_density`."""

  log_density: jax.Array  # (B,) log p(z) / D, in nats
  z: jax.Array  # like z, at the other end of the flow
  nfe: jax.Array  # network evaluations, each with a directional derivative


def flow_density(denoise, z, probe, levels, *, rtol=1e-5, atol=1e-5):
  """Returns the Flow of images: their density under a model.

  Args:
    denoise: (z, logsnr) -> x_hat.
    z: (B, H, W, C) images at levels[0].
    probe: like z, random signs.
    levels: (2,) log-SNR of z, and of the standard normal prior.
    rtol: relative tolerance of the integrator.
    atol: absolute tolerance, also of log p(z) / D.
  """

  def flow(state, logsnr):
    def velocity(z):
      return process.probability_flow(z, denoise(z, logsnr), logsnr)

    dz, change = jax.jvp(velocity, (state[0],), (probe,))
    return dz, _mean(probe * change)

  start = z, jnp.zeros(z.shape[0], z.dtype)
  (z_1, divergence), nfe = adaptive.solve(
    flow, start, levels, rtol=rtol, atol=atol
  )
  prior = -(_mean(z_1**2) + math.log(2 * math.pi)) / 2
  return Flow(prior + divergence, z_1, nfe)


def variational_bound(denoise, images, noise, *, schedule, num_steps, clip):
  """Returns bounds in bits per dimension, (B,), by ancestral sampling.

  They bound -log2 p(image) / D of `num_steps` ancestral steps with the variance
  of the posterior. Each term of the bound is estimated by one draw (Ho et al.
  2020, arXiv 2006.11239, Eq. 5):

    KL(q(z_1 | x) || N(0, I)) + sum over t > 1/N of
    KL(q(z_s | z_t, x) || q(z_s | z_t, x_hat)) - log p(x | z_{1/N}).

  The posterior at data has no variance, so the last step is the discretized
  Gaussian of DDPM (section 3.3) with the mean x_hat and the standard deviation
  sigma_{1/N}, that of `ancestral` with gamma = 1: the probability of a byte is
  that of its cell, and the outermost cells are infinite.

  Args:
    denoise: (z, logsnr) -> x_hat.
    images: (B, H, W, C) uint8.
    noise: i -> standard normal noise like the images, for i in [0, num_steps).
    schedule: t -> logsnr.
    num_steps: N, which may be traced.
    clip: whether x_hat is clipped to [-1, 1], as in sampling.
  """
  x = images / 127.5 - 1
  logsnr_1 = process.expand(schedule(jnp.ones(1)), x)
  alpha, _ = process.alpha_sigma(logsnr_1)
  # sigma^2 - 1 is -alpha^2, and -log(sigma^2) is softplus(logsnr).
  prior = _mean(alpha**2 * (x**2 - 1) + jax.nn.softplus(logsnr_1)) / 2

  def body(i, total):
    index = jnp.full(x.shape[:1], i)
    logsnr_t, logsnr_s = schedules.step_logsnr(schedule, index, num_steps)
    z_t = process.diffuse(x, logsnr_t, noise(i))
    x_hat = denoise(z_t, logsnr_t)
    x_hat = jnp.clip(x_hat, -1, 1) if clip else x_hat
    # The squared difference of the two means over twice the variance is
    # `growth` times (x - x_hat)^2: so the means need not be subtracted.
    growth = jnp.exp(logsnr_s) * -jnp.expm1(logsnr_t - logsnr_s) / 2
    _, sigma_t = process.alpha_sigma(process.expand(logsnr_t, x))
    return total + jax.lax.cond(
      i == 0,
      lambda: _mean(-_log_probability(images, x_hat, sigma_t)),
      lambda: growth * _mean((x - x_hat) ** 2),
    )

  return jax.lax.fori_loop(0, num_steps, body, prior) / math.log(2)


def _log_probability(images, mean, std):
  """Returns the log probability of bytes under a discretized Gaussian."""
  x = images / 127.5 - 1
  low = jnp.where(images == 0, -jnp.inf, (x - 1 / 255 - mean) / std)
  high = jnp.where(images == 255, jnp.inf, (x + 1 / 255 - mean) / std)
  # Both limits are moved to the lower tail, where log_ndtr keeps its digits.
  is_above = x > mean
  low, high = (
    jnp.where(is_above, -high, low),
    jnp.where(is_above, -low, high),
  )
  log_high = log_ndtr(high)
  return log_high + jnp.log(-jnp.expm1(log_ndtr(low) - log_high))


def measure(
  checkpoint,
  examples,
  num_images,
  *,
  batch_size,
  num_steps,
  dequantization='centered',
):
  """Returns bits per dimension of images, their errors and the NFE, as JSON.

  Each error is the standard error over images. The random numbers of an image
  depend on its index alone.

  Args:
    checkpoint: Checkpoint of a model that was trained to denoise.
    examples: Examples; `num_images` of them, evenly spaced, are measured.
    num_images: at least 2.
    batch_size: images measured at once.
    num_steps: steps of the variational bound.
    dequantization: a name in DEQUANTIZATIONS.

  Raises:
    UserError: the flow cannot be integrated, or an example cannot be read.
  """
  run = _compile(checkpoint.card, DEQUANTIZATIONS[dequantization])
  params = devices.replicate(checkpoint.weights)
  count = jax.local_device_count()
  size = -(-min(batch_size, num_images) // count) * count
  indices = np.arange(num_images) * len(examples) // num_images
  progress, found = Progress('likelihood', num_images, 'images'), []
  for first in range(0, num_images, size):
    rows = indices[first : first + size]
    # Smaller batches are padded, so that one program serves all of them.
    batch = [examples[i] for i in np.resize(rows, size)]
    batch = {key: np.stack([each[key] for each in batch]) for key in batch[0]}
    batch['index'] = np.resize(rows, size).astype(np.uint32)
    batch = {
      key: array.reshape(count, -1, *array.shape[1:])
      for key, array in batch.items()
    }
    index = batch.pop('index')
    result = run(params, index, batch, jnp.int32(num_steps))
    result = [np.asarray(array).ravel()[: len(rows)] for array in result]
    for number in rows[~np.isfinite(result[0])]:
      raise UserError(
        f'the probability flow of a batch with image {number} cannot be '
        'integrated: the network returns values that are not finite, or far '
        'too large'
      )
    found.append(result)
    progress.show(first + len(rows))
  exact, bound, nfe = np.concatenate(found, axis=1).astype(np.float64)
  return {
    'bits_per_dim': exact.mean(),
    'bits_per_dim_error': standard_error(exact),
    'bound': bound.mean(),
    'bound_error': standard_error(bound),
    'bound_num_steps': num_steps,
    'nfe': nfe.mean(),
    'num_images': num_images,
  }


def standard_error(values):
  """Returns the standard error of the mean of (N,) values."""
  return np.std(values, ddof=1) / math.sqrt(len(values))


def _compile(card, dequantize):
  """Returns (params, indices, examples, num_steps) -> bits, bounds, NFE."""
  denoiser, schedule = card.denoiser().plain(), card.schedule()

  def run(params, indices, examples, num_steps):
    """Returns the figures of the images of one replica, (B,) each."""
    images, labels = examples['image'], examples['label']
    # A model without classes was trained with label 0.
    condition = {'label': labels * (card.num_classes > 1)}
    denoise = denoiser.bind(params, condition)
    key = jax.random.key(_DOMAIN)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    shape = images.shape[1:]

    def draw(purpose, distribution):
      def of_image(key):
        return distribution(jax.random.fold_in(key, purpose), shape, float)

      return jax.vmap(of_image)(keys)

    u = draw(0, jax.random.uniform)
    probe = draw(1, jax.random.rademacher)
    levels = schedule(jnp.array([0.0, 1.0]))
    flow = flow_density(denoise, dequantize(images, u), probe, levels)
    bound = variational_bound(
      denoise,
      images,
      lambda i: draw(2 + i, jax.random.normal),
      schedule=schedule,
      num_steps=num_steps,
      clip=card.clip,
    )
    exact = dequantize.bits_per_dim(flow.log_density)
    return exact, bound, jnp.full_like(exact, flow.nfe)

  return devices.compile_sampler(run)


def _mean(array):
  """Returns the mean of each image, (B,)."""
  return jnp.mean(array, axis=tuple(range(1, array.ndim)))
