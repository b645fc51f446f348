"""Euler in t: the probability-flow ODE, t its variable (appendix C)."""

from diffusion_distillation.core import process


def euler_t(z_t, x_hat, step):
  """Returns z_s, along dz/dt = (dlogsnr/dt) (dz/dlogsnr) at t; order 1."""
  dt = process.expand((step.s - step.t) * step.slope_t, z_t)
  return z_t + dt * process.probability_flow(z_t, x_hat, step.logsnr_t)
