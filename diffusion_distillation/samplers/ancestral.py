"""Ancestral sampling with a log-interpolated variance (paper, Eq. 4)."""

from diffusion_distillation.core import process


def ancestral(z_t, x_hat, step, *, gamma=1.0):
  """Returns z_s, a draw from the posterior; order 1 in distribution.

  Args:
    z_t: (B, ...) noisy images.
    x_hat: like z_t, their prediction.
    step: the Step to take.
    gamma: in [0, 1], from small (0) to large (1) variance.
  """
  mean, std = process.posterior(z_t, x_hat, step.logsnr_t, step.logsnr_s, gamma)
  return mean + std * step.noise


def gamma_of(logvar_type):
  """Returns the gamma in [0, 1] that a `logvar_type` names.

  Args:
    logvar_type: 'fixed_small' (0), 'fixed_large' (1) or 'fixed_medium:gamma'.

  Raises:
    ValueError: it names none.
  """
  ends = {'fixed_small': 0.0, 'fixed_large': 1.0}
  if logvar_type in ends:
    return ends[logvar_type]
  kind, _, number = str(logvar_type).partition(':')
  try:
    gamma = float(number)
  except ValueError:
    gamma = -1.0
  if kind != 'fixed_medium' or not 0 <= gamma <= 1:
    raise ValueError(
      f'unknown logvar_type {logvar_type!r}; known: fixed_small, fixed_large, '
      'fixed_medium:g with g in [0, 1]'
    )
  return gamma
