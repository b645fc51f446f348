"""DDIM: the deterministic sampler that is distilled (paper, Eq. 8)."""

from diffusion_distillation.core import process


def ddim(z_t, x_hat, step):
  """Returns z_s: the flow's end for an x_hat that holds still; order 1."""
  return process.ddim_step(z_t, x_hat, step.logsnr_t, step.logsnr_s)
