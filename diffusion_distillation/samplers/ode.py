"""Runge-Kutta methods for the probability-flow ODE (paper, appendix C)."""

from diffusion_distillation.core import process
from diffusion_distillation.samplers.sampler import one_step


def euler_t():
  """Returns Euler's method in t: dz/dt = (dlogsnr/dt) (dz/dlogsnr)."""

  def advance(z_t, x_hat, step):
    dt = process.expand((step.s - step.t) * step.slope_t, z_t)
    return z_t + dt * process.probability_flow(z_t, x_hat, step.logsnr_t)

  return one_step(advance, order=1)


def euler():
  """Returns Euler's method in log-SNR.

  The first step from noise spans many units of log-SNR and hardly moves, since
  the flow there is as small as alpha.
  """

  def advance(z_t, x_hat, step):
    h = process.expand(step.logsnr_s - step.logsnr_t, z_t)
    return z_t + h * process.probability_flow(z_t, x_hat, step.logsnr_t)

  return one_step(advance, order=1)


def heun():
  """Returns Heun's method in log-SNR, the explicit trapezoidal rule.

  It is not the method of Karras et al. 2022, whose variable is sigma / alpha.
  Its largest error is in the first step from noise: alpha grows exponentially
  in log-SNR, and a trapezoid over so many units is far above it. From noise to
  Gaussian data (mean -0.6, standard deviation 0.5) the error falls as
  num_steps^-1.3 instead of num_steps^-2.
  """

  def advance(z_t, x_hat, step):
    h = process.expand(step.logsnr_s - step.logsnr_t, z_t)
    at_t = process.probability_flow(z_t, x_hat, step.logsnr_t)
    z_s = z_t + h * at_t
    x_hat_s = step.denoise(z_s, step.logsnr_s)
    at_s = process.probability_flow(z_s, x_hat_s, step.logsnr_s)
    return z_t + h / 2 * (at_t + at_s)

  return one_step(advance, order=2, nfe_per_step=2)


def rk4():
  """Returns the classical Runge-Kutta method of order 4 in log-SNR.

  The midpoint m is that of the log-SNR, not of the time. From noise to data the
  long steps at both ends leave about half of the order, as in `heun`.
  """

  def advance(z_t, x_hat, step):
    logsnr_m = (step.logsnr_t + step.logsnr_s) / 2
    h = process.expand(step.logsnr_s - step.logsnr_t, z_t)

    def flow(z, logsnr):
      return process.probability_flow(z, step.denoise(z, logsnr), logsnr)

    k1 = process.probability_flow(z_t, x_hat, step.logsnr_t)
    k2 = flow(z_t + h / 2 * k1, logsnr_m)
    k3 = flow(z_t + h / 2 * k2, logsnr_m)
    k4 = flow(z_t + h * k3, step.logsnr_s)
    return z_t + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

  return one_step(advance, order=4, nfe_per_step=4)
