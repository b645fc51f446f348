"""Euler in log-SNR: the probability-flow ODE as it stands (appendix C)."""

from diffusion_distillation.core import process


def euler(z_t, x_hat, step):
  """Returns z_s, along dz/dlogsnr at t; order 1.

  The first step from noise spans many units of log-SNR and hardly moves, since
  the flow there is as small as alpha.
  """
  h = process.expand(step.logsnr_s - step.logsnr_t, z_t)
  return z_t + h * process.probability_flow(z_t, x_hat, step.logsnr_t)
