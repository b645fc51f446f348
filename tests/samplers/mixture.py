"""The exact denoiser and the schedules of the cases in tests/data/neighbours.

The data are a mixture of Gaussians on 8x8x1 images. The formulas are those of
tests/data/README.md.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core import process, schedules

FOLDER = pathlib.Path(__file__).parents[1] / 'data' / 'neighbours'


def read(family):
  """Returns the cases of FAMILY.json by name, and the arrays of FAMILY.npz."""
  cases = json.loads((FOLDER / f'{family}.json').read_text())['cases']
  arrays = dict(np.load(FOLDER / f'{family}.npz'))
  return {case['name']: case for case in cases}, arrays


def denoiser(data='mixture'):
  """Returns the exact (z, logsnr) -> x_hat of 'mixture' or 'gaussian'."""
  arrays = np.load(FOLDER / 'denoiser.npz')
  weights, means, stds = (
    arrays[f'{data}/{name}'] for name in ('weights', 'means', 'stds')
  )

  def denoise(z, logsnr):
    def cast(array):
      return jnp.asarray(array, z.dtype)

    alpha, sigma = process.alpha_sigma(logsnr[:, None])  # (B, 1)
    variances = alpha**2 * cast(stds**2)[None] + sigma**2  # (B, K)
    alpha, scaled = (
      process.expand(each, means[None]) for each in (alpha, variances)
    )
    off = z[:, None] - alpha * cast(means)[None]  # (B, K, H, W, C)
    energy = jnp.sum(off**2 / (2 * scaled), axis=(2, 3, 4))
    logits = cast(np.log(weights))[None] - energy
    logits -= z[0].size / 2 * jnp.log(variances)
    share = process.expand(jax.nn.softmax(logits), off)
    pull = alpha * process.expand(cast(stds**2)[None], off) / scaled
    return jnp.sum(share * (cast(means)[None] + pull * off), axis=1)

  return denoise


def precise_denoiser(data='mixture'):
  """Returns `denoiser` computed in float64 by NumPy and rounded once."""
  arrays = np.load(FOLDER / 'denoiser.npz')
  weights, means, stds = (
    arrays[f'{data}/{name}'] for name in ('weights', 'means', 'stds')
  )

  def in_float64(z, logsnr):
    z, logsnr = np.asarray(z, float), np.asarray(logsnr, float)[:, None]
    alpha = 1 / np.sqrt(1 + np.exp(-logsnr))
    variances = alpha**2 * stds**2 + 1 / (1 + np.exp(logsnr))
    off = z[:, None] - alpha[..., None, None, None] * means
    logits = np.log(weights) - z[0].size / 2 * np.log(variances)
    logits -= np.sum(off**2, axis=(2, 3, 4)) / (2 * variances)
    share = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    share /= np.sum(share, axis=1, keepdims=True)
    pull = (alpha * stds**2 / variances)[..., None, None, None]
    x_hat = np.einsum('bk,bkhwc->bhwc', share, means + pull * off)
    return x_hat.astype(np.float32)

  def denoise(z, logsnr):
    result = jax.ShapeDtypeStruct(z.shape, jnp.float32)
    return jax.pure_callback(in_float64, result, z, logsnr)

  return denoise


def linear(t):
  """The schedule of VP SDEs, with beta from 0.1 to 20: t -> logsnr."""
  return logsnr_of(-(19.9 / 4) * t**2 - 0.05 * t)


def ddpm(t):
  """The schedule of DDPM; log alpha is linear between its 1,000 steps."""
  log_alpha = np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000))) / 2
  times = np.arange(1, 1001) / 1000
  return logsnr_of(
    jnp.interp(t, jnp.asarray(times, t.dtype), jnp.asarray(log_alpha, t.dtype))
  )


def logsnr_of(log_alpha):
  """Returns the log-SNR of log(alpha)."""
  return 2 * log_alpha - jnp.log(-jnp.expm1(2 * log_alpha))


SCHEDULES = {
  'cosine': schedules.get_logsnr_schedule('cosine'),
  'linear': linear,
  'ddpm': ddpm,
}
