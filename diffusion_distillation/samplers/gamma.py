"""Gamma-DDIM, a sampler for networks that were trained with Gamma noise."""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp

from diffusion_distillation.core import process
from diffusion_distillation.core.noise import normal_to_gamma
from diffusion_distillation.samplers.sampler import one_step, skip_empty


def gamma_ddim(theta_0=0.001, sigma: float | None = None):
  """Returns Gamma-DDIM, for networks trained with `model.noise=gamma`.

  It is Eqs. 17 and 18 of *Denoising Diffusion Implicit Models*, a project
  report by Dujardin, Gaubil and Richard. With a = alpha_s and b = alpha_t,
  which are their sqrt(alpha-bar),

    z_s = C z_t + D x_hat + sigma (g - E g),  g ~ Gamma(k, b theta_0),
    C = (a - sigma b) / (b (1 + a)),  D = (a^2 + sigma b) / (1 + a).

  The derivation of C and D requires that the shape of the noise doubles with
  each step: k, the shape that a step adds, is the shape of all noise at s,
  k = e^{-logsnr_s} / theta_0^2. If x_hat is x, the mean of z_s is a x for any
  sigma, and its variance is sigma_s^2 times

    R = (1 - y)^2 q + y^2,
    y = sigma b / a,  q = e^{logsnr_s - logsnr_t} / (1 + a)^2.

  R is 1 at y = 1, where C = 0 and all noise is drawn again, and at
  y = (q - 1) / (q + 1), the default, which makes use of z_t.

  Args:
    theta_0: the value that the network was trained with.
    sigma: the free parameter of the method; 0 draws no noise. None takes the
      value with which R is 1: it depends on the step, and may be negative.

  Raises:
    ValueError: theta_0 is not positive, or a value is not finite.
  """
  if isinstance(theta_0, numbers.Real) and not 0 < theta_0 < math.inf:
    raise ValueError(f'theta_0 must be positive and finite, got {theta_0}')
  if isinstance(sigma, numbers.Real) and not math.isfinite(sigma):
    raise ValueError(f'sigma must be finite, got {sigma}')

  # A traced sigma is not a Real, and counts as one that draws noise.
  draws_noise = not (isinstance(sigma, numbers.Real) and sigma == 0)

  def advance(z_t, x_hat, step):
    logsnr_t = process.expand(step.logsnr_t, z_t)
    logsnr_s = process.expand(step.logsnr_s, z_t)
    a, sigma_s = process.alpha_sigma(logsnr_s)
    b, _ = process.alpha_sigma(logsnr_t)
    if sigma is None:
      log_q = logsnr_s - logsnr_t - 2 * jnp.log1p(a)
      # In a step from pure noise, 1 - y is near 1e-7: it has its own formula.
      y, one_minus_y = jnp.tanh(log_q / 2), 2 * jax.nn.sigmoid(-log_q)
    else:
      y = sigma * b / a
      one_minus_y = 1 - y
    mean = a / (1 + a) * (one_minus_y / b * z_t + (a + y) * x_hat)
    if not draws_noise:
      return mean
    # sigma times the standard deviation of g is y sigma_s.
    return mean + y * sigma_s * normal_to_gamma(step.noise, logsnr_s, theta_0)

  sampler = one_step(
    advance,
    order=0,
    draws_noise=draws_noise,
    model={'noise': 'gamma', 'theta_0': theta_0},
  )
  return dataclasses.replace(sampler, step=skip_empty(sampler.step))
