"""The diffusion process: its theory and its formulas.

Time runs from t = 0 (data) to t = 1 (noise), and s < t. The noise level is
lambda_t = log(alpha_t^2 / sigma_t^2), `logsnr` in the code, and the process
preserves variance, so

  (1)  alpha_t^2 = sigmoid(lambda_t),   sigma_t^2 = sigmoid(-lambda_t),
  (2)  q(z_t | x) = N(alpha_t x, sigma_t^2 I).

Two noise levels of one image are related by

  (3)  q(z_t | z_s) = N((alpha_t / alpha_s) z_s, sigma_{t|s}^2 I),
       sigma_{t|s}^2 = (1 - e^{lambda_t - lambda_s}) sigma_t^2,
  (4)  q(z_s | z_t, x) = N(mu, sigma_{s|t}^2 I),
       mu = e^{lambda_t - lambda_s} (alpha_s / alpha_t) z_t
            + (1 - e^{lambda_t - lambda_s}) alpha_s x,
       sigma_{s|t}^2 = (1 - e^{lambda_t - lambda_s}) sigma_s^2.

A network that predicts x_hat from z_t defines the probability-flow ODE

  (5)  dz / dlambda = (alpha x_hat(z, lambda) - alpha^2 z) / 2,

and DDIM is its integrator that holds x_hat still over the step (paper, Eq. 8
and appendix B):

  (6)  z_s = (sigma_s / sigma_t) z_t
             - alpha_s (e^{(lambda_t - lambda_s) / 2} - 1) x_hat.

Data itself is lambda_s = +inf: sigma_s = 0 and alpha_s = 1, so that (4) and (6)
both return x_hat exactly. The last sampling step goes there, which is why no
function below has a special case for it.

Shapes: z, x and eps are (B, ...) float32; logsnr is (B,) float32 (or a scalar).
"""

import jax
import jax.numpy as jnp


def expand(per_example, like):
  """Returns (B,) values as (B, 1, ..., 1), with the rank of `like`."""
  per_example = jnp.asarray(per_example)
  ones = (1,) * (jnp.ndim(like) - per_example.ndim)
  return jnp.reshape(per_example, per_example.shape + ones)


def alpha_sigma(logsnr):
  """Returns alpha and sigma, Eq. (1); both keep their digits at either end."""
  return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def diffuse(x, logsnr, eps):
  """Returns z_t = alpha_t x + sigma_t eps, a draw of Eq. (2)."""
  alpha, sigma = alpha_sigma(expand(logsnr, x))
  return alpha * x + sigma * eps


def diffuse_from(z_s, logsnr_s, logsnr_t, eps):
  """Returns z_t, noisier than z_s: a draw of q(z_t | z_s), Eq. (3).

  Args:
    z_s: (B, ...) noisy images.
    logsnr_s: (B,) noise level of z_s; +inf is data, as in `diffuse`.
    logsnr_t: (B,) noise level to go to, at most logsnr_s.
    eps: like z_s, standard normal.
  """
  logsnr_s, logsnr_t = expand(logsnr_s, z_s), expand(logsnr_t, z_s)
  alpha_s, _ = alpha_sigma(logsnr_s)
  alpha_t, sigma_t = alpha_sigma(logsnr_t)
  sigma_ts = jnp.sqrt(-jnp.expm1(logsnr_t - logsnr_s)) * sigma_t
  return (alpha_t / alpha_s) * z_s + sigma_ts * eps


def probability_flow(z, x_hat, logsnr):
  """Returns dz / dlogsnr of the probability-flow ODE, Eq. (5).

  Args:
    z: (B, ...) noisy images.
    x_hat: like z, the prediction of the clean images.
    logsnr: (B,) noise level of z, finite.
  """
  alpha, _ = alpha_sigma(expand(logsnr, z))
  return alpha * (x_hat - alpha * z) / 2


def ddim_step(z_t, x_hat, logsnr_t, logsnr_s):
  """Returns z_s, one DDIM step, Eq. (6) (paper, Eq. 8).

  No eps is formed and no two nearly equal numbers are subtracted, so a step of
  any length keeps the digits of float32.

  Args:
    z_t: (B, ...) noisy images.
    x_hat: like z_t, the prediction of the clean images.
    logsnr_t: (B,) noise level of z_t.
    logsnr_s: (B,) noise level to go to; +inf is data and returns x_hat.
  """
  logsnr_t, logsnr_s = expand(logsnr_t, z_t), expand(logsnr_s, z_t)
  _, sigma_t = alpha_sigma(logsnr_t)
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  x_weight = -alpha_s * jnp.expm1((logsnr_t - logsnr_s) / 2)
  return (sigma_s / sigma_t) * z_t + x_weight * x_hat


def posterior(z_t, x_hat, logsnr_t, logsnr_s, gamma):
  """Returns mean and std of z_s given z_t and x = x_hat (paper, Eqs. 3 and 4).

  Args:
    z_t: (B, ...) noisy images.
    x_hat: like z_t, the prediction of the clean images.
    logsnr_t: (B,) noise level of z_t.
    logsnr_s: (B,) noise level to go to.
    gamma: in [0, 1]; interpolates the log variance from sigma_{s|t}^2 at 0
      ('fixed_small') to sigma_{t|s}^2 at 1 ('fixed_large').

  Returns:
    mean like z_t, and std (B, 1, ..., 1). At logsnr_s = +inf the mean is x_hat,
    and only gamma = 1 leaves a std: it bounds the variance of unknown data.
  """
  logsnr_t, logsnr_s = expand(logsnr_t, z_t), expand(logsnr_s, z_t)
  alpha_t, sigma_t = alpha_sigma(logsnr_t)
  alpha_s, sigma_s = alpha_sigma(logsnr_s)
  ratio = jnp.exp(logsnr_t - logsnr_s)
  one_minus_ratio = -jnp.expm1(logsnr_t - logsnr_s)
  mean = ratio * (alpha_s / alpha_t) * z_t + one_minus_ratio * alpha_s * x_hat
  std = jnp.sqrt(one_minus_ratio) * sigma_s ** (1 - gamma) * sigma_t**gamma
  return mean, std
