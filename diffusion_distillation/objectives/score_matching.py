"""Score matching: a teacher learns the score without knowing clean images.

Hyvarinen 2005, *Estimation of Non-Normalized Statistical Models by Score
Matching*; Song et al. 2019, *Sliced Score Matching* (arXiv 1905.07088); Song &
Ermon 2019, *Generative Modeling by Estimating Gradients of the Data
Distribution* (arXiv 1907.05600).

All act on y = z / alpha = x + sigma eps at a noise level sigma, as in NCSN, and
see y alone. The network's score there is s(y) = (x_hat - y) / sigma^2. Each
loss has the weight sigma^2, so that all noise levels count alike. Denoising
score matching is the objective `denoising` with the weighting `snr`, up to a
factor.
"""

import jax
import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.objectives.denoising import (
  draw_logsnr,
  teacher_round,
)
from diffusion_distillation.objectives.objective import Objective


def sliced_score_matching(projections=1, variance_reduction=True):
  """Returns sliced score matching, which projects on random directions.

  Args:
    projections: number of random directions v for each image.
    variance_reduction: whether the expectation of (v^T s)^2 over v is taken
      exactly, as |s|^2 (SSM-VR).

  Raises:
    ValueError: projections is below 1.
  """
  if projections < 1:
    raise ValueError(f'projections must be at least 1, got {projections}')

  def of_score(score, y, keys):
    def along(key):
      v = jax.vmap(lambda k: jax.random.normal(k, y.shape[1:]))(key)
      return sliced_loss(score, y, v, variance_reduction)

    split = jax.vmap(lambda key: jax.random.split(key, projections), out_axes=1)
    return jnp.mean(jnp.stack([along(key) for key in split(keys)]), axis=0)

  return _objective(of_score, lambda pixels: 3 * (2 * projections - 1))


def implicit_score_matching():
  """Returns implicit score matching with the exact trace, for tiny images.

  An update differentiates the network once for each value of an image.
  """

  def of_score(score, y, keys):
    del keys
    return implicit_loss(score, y)

  return _objective(of_score, lambda pixels: 3 * pixels)


def sliced_loss(score, y, v, variance_reduction=True):
  """Returns v^T J v + |s|^2 / 2, or + (v^T s)^2 / 2, for each image, (B,).

  Args:
    score: y -> s(y), whose Jacobian for each image is J.
    y: (B, H, W, C) noisy images.
    v: directions, like y.
    variance_reduction: whether |s|^2 takes the place of (v^T s)^2.
  """
  s, tangent = jax.jvp(score, (y,), (v,))
  if variance_reduction:
    return _dot(v, tangent) + _dot(s, s) / 2
  return _dot(v, tangent) + _dot(v, s) ** 2 / 2


def implicit_loss(score, y):
  """Returns trace(J) + |s|^2 / 2 for each image, (B,).

  Args:
    score: as in `sliced_loss`.
    y: (B, H, W, C) noisy images.
  """
  size = y[0].size

  def second_derivative(v):
    v = jnp.broadcast_to(v, y.shape)
    return _dot(v, jax.jvp(score, (y,), (v,))[1])

  basis = jnp.eye(size).reshape(size, *y.shape[1:])
  trace = jnp.sum(jax.vmap(second_derivative)(basis), axis=0)
  s = score(y)
  return trace + _dot(s, s) / 2


def _objective(of_score, extra_passes):
  """Returns config -> Objective of a teacher.

  Args:
    of_score: (score, y, keys) -> losses (B,), with (B,) random keys.
    extra_passes: as in Objective.
  """

  def make(config):
    def loss(inputs):
      logsnr = draw_logsnr(config.model, inputs.time_keys)
      alpha, sigma = process.alpha_sigma(process.expand(logsnr, inputs.x))
      variance = (sigma / alpha) ** 2

      def score(y):
        return (inputs.student(alpha * y, logsnr) - y) / variance

      y = inputs.diffuse(logsnr) / alpha
      # The keys of the times are used up; directions have their own.
      keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(inputs.time_keys)
      return jnp.exp(-logsnr) * of_score(score, y, keys)

    return Objective(
      loss,
      (teacher_round(config),),
      needs_teacher=False,
      extra_passes=extra_passes,
      differentiates_input=True,
    )

  return make


def _dot(a, b):
  return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))
