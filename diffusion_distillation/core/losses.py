"""One loss, weight(logsnr) * mean((x_target - x_hat)^2) (paper, section 4).

Because eps-MSE = SNR x-MSE and v-MSE = (1 + SNR) x-MSE, choosing a loss means
choosing a weight, whichever head the network has.
"""

import math

import jax.numpy as jnp

WEIGHTS = {
  'constant': jnp.ones_like,
  'snr': jnp.exp,  # Eq. 9, the eps loss
  'snr_trunc': lambda logsnr: jnp.maximum(1, jnp.exp(logsnr)),
  'v_mse': lambda logsnr: 1 + jnp.exp(logsnr),  # SNR + 1, the v loss
  # SNR + 1 / sigma_data^2 for data of standard deviation 1/2 (Karras et al.
  # 2022, arXiv 2206.00364, Table 1)
  'karras': lambda logsnr: 4 + jnp.exp(logsnr),
}
ALIASES = {'truncated_snr': 'snr_trunc', 'snr_plus_one': 'v_mse'}


def weight(name, logsnr):
  """Returns the weight of the x-MSE at each noise level, like logsnr.

  Args:
    name: 'constant', 'snr', 'snr_trunc' (truncated SNR), 'v_mse' (SNR + 1) or
      'karras' (SNR + 4); or one of ALIASES.
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
  return weight(name, logsnr) * _mse(x_target, x_hat)


def _mse(x_target, x_hat):
  return jnp.mean(jnp.square(x_target - x_hat), axis=_pixels(x_hat))


def _l1(x_target, x_hat):
  return jnp.mean(jnp.abs(x_target - x_hat), axis=_pixels(x_hat))


# Song & Dhariwal 2023, arXiv 2310.14189, section 3.4. It is close to the norm
# of the whole image's difference where that is larger than c, and smooth at 0.
def _pseudo_huber(x_target, x_hat):
  squared = jnp.sum(jnp.square(x_target - x_hat), axis=_pixels(x_hat))
  c = 0.00054 * math.sqrt(x_hat[0].size)
  # This is sqrt(squared + c^2) - c without a difference of close numbers.
  return squared / (jnp.sqrt(squared + c * c) + c)


def _norm(x_target, x_hat):
  squared = jnp.sum(jnp.square(x_target - x_hat), axis=_pixels(x_hat))
  # The derivative at 0 is 0, and not infinite.
  is_zero = squared == 0
  return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))


def _pixels(x_hat):
  return tuple(range(1, x_hat.ndim))


# Distances of images, name -> (x_target, x_hat), (B, ...) each -> (B,).
DISTANCES = {'mse': _mse, 'l1': _l1, 'huber': _pseudo_huber, 'norm': _norm}


def get_distance(name):
  """Returns the distance (x_target, x_hat) -> (B,) of a name in DISTANCES.

  Raises:
    ValueError: the name is unknown.
  """
  if name not in DISTANCES:
    known = ', '.join(DISTANCES)
    raise ValueError(f'unknown distance {name!r}; known: {known}')
  return DISTANCES[name]
