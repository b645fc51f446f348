"""DDIM, which is distilled, and related samplers that draw noise."""

import dataclasses
import numbers

import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.samplers.sampler import one_step, skip_empty


def ddim(eta=0.0):
  """Returns DDIM: the exact solution for an x_hat that is constant (Eq. 8).

  With eta it draws noise (Song et al. 2020, arXiv 2010.02502, Eqs. 12 and 16),
  and keeps the marginals at every eta:

  z_s = alpha_s x_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) noise,
  v = eta^2 (1 - e^{logsnr_t - logsnr_s}) sigma_s^2.

  Args:
    eta: in [0, 1]; 1 is `ancestral` with gamma = 0.

  Raises:
    ValueError: eta is not in [0, 1].
  """
  if isinstance(eta, numbers.Real) and not 0 <= eta <= 1:
    raise ValueError(f'eta must be in [0, 1], got {eta}')

  def advance(z_t, x_hat, step):
    return process.ddim_step(z_t, x_hat, step.logsnr_t, step.logsnr_s)

  def advance_noisily(z_t, x_hat, step):
    alpha_t, sigma_t = process.alpha_sigma(process.expand(step.logsnr_t, z_t))
    eps_hat = (z_t - alpha_t * x_hat) / sigma_t
    change = process.expand(step.logsnr_t - step.logsnr_s, z_t)
    of_noise = -eta * eta * jnp.expm1(change)  # v / sigma_s^2
    # This is 1 - of_noise; computed by that difference, its rounding would be
    # 2e-4 of z_s at the noisy end.
    of_eps = jnp.exp(change) - (1 - eta * eta) * jnp.expm1(change)
    eps = jnp.sqrt(of_eps) * eps_hat + jnp.sqrt(of_noise) * step.noise
    return process.diffuse(x_hat, step.logsnr_s, eps)

  if isinstance(eta, numbers.Real) and eta == 0:
    return one_step(advance, order=1)
  return one_step(advance_noisily, order=1, draws_noise=True)


def ancestral(gamma=1.0):
  """Returns ancestral sampling, which draws from the posterior (paper, Eq. 4).

  Args:
    gamma: in [0, 1]; interpolates the log variance from that of the posterior,
      at 0, to the larger one of q(z_t | z_s), at 1.

  Raises:
    ValueError: gamma is not in [0, 1].
  """
  if isinstance(gamma, numbers.Real) and not 0 <= gamma <= 1:
    raise ValueError(f'gamma must be in [0, 1], got {gamma}')

  def advance(z_t, x_hat, step):
    mean, std = process.posterior(
      z_t, x_hat, step.logsnr_t, step.logsnr_s, gamma
    )
    return mean + std * step.noise

  return one_step(advance, order=1, draws_noise=True)


def stochastic():
  """Returns stochastic sampling of distilled models (Meng et al. 2022).

  This is the N-step stochastic sampler of *On Distillation of Guided Diffusion
  Models* (arXiv 2210.03142): a DDIM step of twice the length, from t to
  u = t - 2/N, then noise back up to s = t - 1/N by q(z_s | z_u). Appendix F of
  the progressive distillation paper describes the same idea for its students.
  Neither gives formulas, so two details are our reading: from t = 2/N the
  deterministic step ends at data, and at t = 1/N, as with every sampler, x_hat
  is returned.

  A student that was distilled to N / 2 steps makes DDIM steps of this length,
  although it was never trained at odd multiples of 1/N.
  """

  def advance(z_t, x_hat, step):
    z_u = process.ddim_step(z_t, x_hat, step.logsnr_t, step.logsnr_u)
    return process.diffuse_from(z_u, step.logsnr_u, step.logsnr_s, step.noise)

  sampler = one_step(
    advance, order=1, draws_noise=True, steps_per_student_step=2
  )
  return dataclasses.replace(sampler, step=skip_empty(sampler.step))
