"""One loss, weight(logsnr) * mean((x_target - x_hat)^2) (paper, section 4).

Because eps-MSE = SNR x-MSE and v-MSE = (1 + SNR) x-MSE, choosing a loss means
choosing a weight, whichever head the network has.
"""

import jax.numpy as jnp

WEIGHTS = {
  'constant': jnp.ones_like,
  'snr': jnp.exp,  # Eq. 9, the eps loss
  'snr_trunc': lambda logsnr: jnp.maximum(1, jnp.exp(logsnr)),
  'v_mse': lambda logsnr: 1 + jnp.exp(logsnr),  # SNR + 1, the v loss
}
ALIASES = {'truncated_snr': 'snr_trunc', 'snr_plus_one': 'v_mse'}


def weight(name, logsnr):
  """Returns the weight of the x-MSE at each noise level, like logsnr.

  Args:
    name: 'constant', 'snr', 'snr_trunc' (truncated SNR) or 'v_mse' (SNR + 1);
      or one of ALIASES.
    logsnr: (B,) float32.

  Raises:
    ValueError: the name is unknown.
  """
  return WEIGHTS[check_weighting(name)](logsnr)


def check_weighting(name):
  """Returns the name in WEIGHTS that a name, or its alias, stands for.

  Raises:
    ValueError: the name is unknown.
  """
  name = ALIASES.get(name, name)
  if name not in WEIGHTS:
    known = ', '.join([*WEIGHTS, *ALIASES])
    raise ValueError(f'unknown loss weighting {name!r}; known: {known}')
  return name


def weighted_mse(name, x_target, x_hat, logsnr):
  """Returns the loss of each example, (B,).

  Args:
    name: name of the weighting, as in `weight`.
    x_target: (B, ...) clean images, or a distillation target.
    x_hat: like x_target.
    logsnr: (B,) noise level at which x_hat was predicted.
  """
  pixels = tuple(range(1, x_hat.ndim))
  mse = jnp.mean(jnp.square(x_target - x_hat), axis=pixels)  # (B,)
  return weight(name, logsnr) * mse
