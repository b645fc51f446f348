"""One step of the sampling loop, as every method sees it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_distillation.core.targets import fraction, step_logsnr


class Step(NamedTuple):
  """A step from t = (index + 1) / num_steps to s = index / num_steps.

  What a method asks for is computed, and nothing else is. All of it is (B,).
  """

  denoise: Callable  # (z, logsnr) -> x_hat, to ask the network once more
  schedule: Callable  # t -> logsnr
  index: jax.Array  # (B,) int in [0, num_steps); at 0, s is data
  num_steps: int | jax.Array
  noise: jax.Array | None = None  # like z_t, standard normal

  @property
  def t(self):
    """Where the step begins."""
    return fraction(self.index + 1, self.num_steps)

  @property
  def s(self):
    """Where it ends."""
    return fraction(self.index, self.num_steps)

  @property
  def logsnr_t(self):
    """The noise level at t."""
    return step_logsnr(self.schedule, self.index, self.num_steps)[0]

  @property
  def logsnr_s(self):
    """The noise level at s; +inf is data."""
    return step_logsnr(self.schedule, self.index, self.num_steps)[1]

  @property
  def logsnr_u(self):
    """The noise level one step beyond s, or of data, +inf, where that ends."""
    beyond = jnp.maximum(self.index - 1, 0)
    return step_logsnr(self.schedule, beyond, self.num_steps)[1]

  @property
  def slope_t(self):
    """The schedule's derivative at t, dlogsnr / dt."""
    return jax.jvp(self.schedule, (self.t,), (jnp.ones_like(self.t),))[1]
