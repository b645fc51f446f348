"""Exponential integrators: what DPM-Solver, DPM-Solver++ and UniPC share.

With lambda = logsnr / 2, the probability-flow ODE has the exact solution

  z_s = (sigma_s / sigma_t) z_t
        + alpha_s integral of e^{lambda - lambda_s} x(lambda) dlambda,
  z_s = (alpha_s / alpha_t) z_t
        - sigma_s integral of e^{lambda_s - lambda} eps(lambda) dlambda

from lambda_t to lambda_s (Lu et al. 2022: arXiv 2211.01095 for x, and arXiv
2206.00927, Eq. 3.4, for eps). Every solver replaces the prediction m, which is
x or eps, by a polynomial through known predictions. The constant polynomial is
DDIM in both forms, so a solver is DDIM plus a `change`: the integral of what
the polynomial adds to m(lambda_t). With u = lambda - lambda_t and h = lambda_s
- lambda_t, the change is a sum of multiples of moments, which are the integrals
over [0, h] of u^n times the exponential.

`process.ddim_step` computes the DDIM part in the eps form as well. Computed as
a difference of large multiples of z_t and eps, it would lose 3e-4 in a first
step from log-SNR -20; `ddim_step` loses 4e-7.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from diffusion_distillation.core import process

FORMS = 'x', 'eps'
# The log-SNR below which the originals cut off their discrete schedules.
_LOWEST_LOGSNR = -10.2
# Gauss-Legendre quadrature on [0, 1]. Its error is 1e-12 up to h = 20, and all
# its terms are positive, so that none cancel: in float32, the recurrence from
# phi_n to phi_{n+1} loses 1e-4 of phi_3 at h = 0.1, and all of it at h = 0.001.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = (1 + _NODES) / 2, _WEIGHTS / 2


def check(kind, value, known):
  """Raises ValueError unless an option has one of its known values."""
  if value not in known:
    known = ', '.join(map(str, known))
    raise ValueError(f'unknown {kind} {value!r}; known: {known}')


def predict(form, z, x_hat, logsnr):
  """Returns the prediction m at z, which is x_hat itself or eps_hat."""
  if form == 'x':
    return x_hat
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  return (z - alpha * x_hat) / sigma


def change(form, logsnr_s, h, points, used=None, rule='exact', curvature=1.0):
  """Returns what a solver adds to the z_s of DDIM, since predictions change.

  In the eps form it is 0 for a step that starts below log-SNR -10.2.

  Args:
    form: 'x' or 'eps'.
    logsnr_s: (B,) noise level at the end of the step.
    h: (B,) length of the step in logsnr / 2.
    points: pairs of u (B,) and of the prediction there; u = 0 is the first.
    used: (B,) number of points to use, counted from the first; all by default.
      Unused points may coincide.
    rule: value of the integral of u where two points are used: 'exact';
      'midpoint', h / 2 times the integral of 1; or 'half', h^2 / 2.
    curvature: factor of the integral of u^2.
  """
  alpha_s, sigma_s = process.alpha_sigma(logsnr_s)
  weight, growth = (alpha_s, -h) if form == 'x' else (-sigma_s, h)
  used = len(points) if used is None else used
  if form == 'eps':
    # Differences of eps are amplified by alpha_s / alpha_t. In 10 steps from
    # log-SNR -20 the error is 74 (dpm_3s:inner=time) or 2 (unipc) in any
    # precision, and 0.08 if the first step is DDIM's.
    used = jnp.where(logsnr_s - 2 * h < _LOWEST_LOGSNR, 1, used)
  moments = _moments(h, growth, len(points))
  if len(moments) > 1 and rule != 'exact':
    linear = h / 2 * (moments[0] if rule == 'midpoint' else h)
    moments[1] = jnp.where(used == 2, linear, moments[1])
  if len(moments) > 2:
    moments[2] *= curvature
  # Newton's form of the polynomial: its terms are divided differences times
  # N_k(u) = (u - u_0) ... (u - u_{k-1}). `moments` are those of u^n N_k.
  u, column = zip(*points, strict=True)
  total = jnp.zeros_like(column[0])
  for k in range(1, len(points)):
    column = [
      _quotient(b - a, u[i + k] - u[i])
      for i, (a, b) in enumerate(itertools.pairwise(column))
    ]
    moments = [b - u[k - 1] * a for a, b in itertools.pairwise(moments)]
    share = jnp.where(k < used, weight * moments[0], 0)
    total += process.expand(share, total) * column[0]
  return total


def _moments(h, growth, count):
  """Returns the integrals over [0, h] of u^n e^{growth (1 - u / h)}, n < count.

  They are h^{n+1} n! phi_{n+1}(growth).
  """

  def constant(array):
    return jnp.asarray(array, h.dtype)[None]

  factor = jnp.exp(growth[:, None] * constant(1 - _NODES))
  return [
    h ** (n + 1) * jnp.sum(factor * constant(_WEIGHTS * _NODES**n), axis=1)
    for n in range(count)
  ]


def _quotient(difference, length):
  """Returns difference / length, or 0 where the length is 0."""
  is_known = length != 0
  inverse = jnp.where(is_known, 1 / jnp.where(is_known, length, 1), 0)
  return process.expand(inverse, difference) * difference


def no_history(z, length):
  """Returns the history before the first step.

  A history has a pair for each earlier step, the last step first: the
  prediction at its start and its length in logsnr / 2. Where the length is 0,
  there was no such step.
  """
  return ((jnp.zeros_like(z), jnp.zeros(z.shape[0], z.dtype)),) * length


def behind(history):
  """Returns the points of a history, as seen from the end of its last step."""
  lengths = itertools.accumulate(length for _, length in history)
  return [(-u, m) for u, (m, _) in zip(lengths, history, strict=True)]


def known(history):
  """Returns (B,) the number of predictions in a history."""
  return sum((length > 0).astype(jnp.int32) for _, length in history)
