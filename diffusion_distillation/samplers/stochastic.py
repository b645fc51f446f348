"""Stochastic sampling of distilled models (Meng et al. 2022; appendix F)."""

from diffusion_distillation.core import process


def stochastic(z_t, x_hat, step):
  """Returns z_s: a DDIM step of twice the length, then noise back up to s.

  The N-step stochastic sampler of Meng et al., *On Distillation of Guided
  Diffusion Models* (arXiv 2210.03142), after Karras et al. 2022: from t to
  u = t - 2/N deterministically, then back to s = t - 1/N by q(z_s | z_u). The
  paper's appendix F describes the same idea for its own students; neither gives
  formulas that we could compare with, so two details are our reading: from
  t = 2/N the deterministic step ends at data, u = 0, and at t = 1/N, as with
  any method, x_hat is what is returned.

  A student of N / 2 steps is what makes DDIM steps of that length well, though
  it is asked at odd multiples of 1/N, too, where it was not trained.
  """
  z_u = process.ddim_step(z_t, x_hat, step.logsnr_t, step.logsnr_u)
  return process.diffuse_from(z_u, step.logsnr_u, step.logsnr_s, step.noise)
