"""Euler in log-SNR: the probability-flow ODE as it stands (appendix C)."""

from diffusion_distillation.core import process


def euler(z_t, x_hat, step):
  """Returns z_s, along dz/dlogsnr at t; order 1.

  Its steps to nearly clean images span many units of log-SNR, over which alpha
  and so the flow change much: few steps are not enough.
  """
  h = process.expand(step.logsnr_s - step.logsnr_t, z_t)
  return z_t + h * process.probability_flow(z_t, x_hat, step.logsnr_t)
