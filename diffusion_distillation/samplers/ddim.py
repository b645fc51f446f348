"""DDIM: the deterministic sampler that is distilled (paper, Eq. 8)."""

from diffusion_distillation.core import process


def ddim(denoise, z_t, logsnr_t, logsnr_s, noise):
  """Returns z_s; order 1, one network evaluation, no noise."""
  del noise
  return process.ddim_step(z_t, denoise(z_t, logsnr_t), logsnr_t, logsnr_s)
