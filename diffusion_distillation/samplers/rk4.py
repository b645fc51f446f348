"""The classical Runge-Kutta method in log-SNR (appendix C)."""

from diffusion_distillation.core import process


def rk4(z_t, x_hat, step):
  """Returns z_s, along Simpson's mean of four dz/dlogsnr; order 4.

  The midpoint m is that of the log-SNR, not of the time. From noise to data the
  long steps at both ends leave about half of the order, as in `heun`.
  """
  logsnr_m = (step.logsnr_t + step.logsnr_s) / 2
  h = process.expand(step.logsnr_s - step.logsnr_t, z_t)

  def flow(z, logsnr):
    return process.probability_flow(z, step.denoise(z, logsnr), logsnr)

  k1 = process.probability_flow(z_t, x_hat, step.logsnr_t)
  k2 = flow(z_t + h / 2 * k1, logsnr_m)
  k3 = flow(z_t + h / 2 * k2, logsnr_m)
  k4 = flow(z_t + h * k3, step.logsnr_s)
  return z_t + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
