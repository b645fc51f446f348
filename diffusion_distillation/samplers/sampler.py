"""Defines a sampler, and one step of the sampling loop as a sampler sees it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_distillation.core.schedules import logsnr_at


class Step(NamedTuple):
  """A step from time t to time s < t; its properties are (B,) arrays.

  Properties are computed when a sampler asks for them, so that it does not pay
  for what it does not use.
  """

  denoise: Callable  # (z, logsnr) -> x_hat, for another network evaluation
  schedule: Callable  # t -> logsnr
  time: Callable  # (index, num_steps) -> t, the time grid
  index: jax.Array  # (B,) int in [0, num_steps), of s in the grid
  num_steps: int | jax.Array
  # Standard normal, like z_t; (draws, *z_t.shape) for `draws_per_step` above 1.
  noise: jax.Array | None = None

  @property
  def t(self):
    """The time at which the step starts."""
    return self.time(self.index + 1, self.num_steps)

  @property
  def s(self):
    """The time at which the step ends."""
    return self.time(self.index, self.num_steps)

  @property
  def logsnr_t(self):
    """The noise level at t."""
    return self.schedule(self.t)

  @property
  def logsnr_s(self):
    """The noise level at s; +inf where s is data."""
    return logsnr_at(self.schedule, self.s)

  @property
  def logsnr_u(self):
    """The noise level one step beyond s; that of s if the grid ends there."""
    beyond = self.time(jnp.maximum(self.index - 1, 0), self.num_steps)
    return logsnr_at(self.schedule, beyond)

  @property
  def slope_t(self):
    """The derivative of the schedule at t, dlogsnr / dt."""
    return jax.jvp(self.schedule, (self.t,), (jnp.ones_like(self.t),))[1]


def no_memory(z):
  """Returns the memory of a one-step method, which is empty."""
  del z
  return ()


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A pair of pure functions, and what is known about the method they make.

  Attributes:
    step: (z_t, x_hat, step, memory) -> (z_s, memory), where x_hat is the
      prediction at z_t. It is not called for a step that ends at data: there
      the loop returns x_hat.
    order: order of convergence in 1 / num_steps, to the probability-flow ODE
      between two noise levels or, if noise is drawn, to the distribution of the
      data; 0 where an error may remain, or falls more slowly. At both ends of
      the noise range a single step spans many units of log-SNR, however short
      it is in t, so an order above 1 in log-SNR does not hold for the whole
      range.
    nfe_per_step: network evaluations in each step but the last, which has one.
    nfe_saved: evaluations that these steps save in all, if there are any steps
      before the last.
    draws_noise: whether `Step.noise` is used.
    draws_per_step: how many arrays of noise like z a step needs.
    steps_per_student_step: loop steps that one deterministic step of the
      sampler spans: a student of N steps is sampled in N times as many.
    init: z -> the memory before the first step, a pytree; () for methods that
      use the current prediction alone.
    model: keys of the config's section `model`, and the values that networks
      for this sampler are trained with; {} where any network will do.
  """

  step: Callable[[jax.Array, jax.Array, Step, Any], tuple[jax.Array, Any]]
  order: int
  nfe_per_step: int = 1
  nfe_saved: int = 0
  draws_noise: bool = False
  draws_per_step: int = 1
  steps_per_student_step: int = 1
  init: Callable[[jax.Array], Any] = no_memory
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def nfe(self, num_steps):
    """Returns the network evaluations (NFE) of a sample of `num_steps`."""
    before_last = self.nfe_per_step * (num_steps - 1)
    return before_last + 1 - min(self.nfe_saved, before_last)


def one_step(advance, **properties):
  """Returns the Sampler of a method without memory.

  Args:
    advance: (z_t, x_hat, step) -> z_s.
    **properties: the other attributes of the Sampler.
  """

  def step(z_t, x_hat, step, memory):
    return advance(z_t, x_hat, step), memory

  return Sampler(step, **properties)


def skip_empty(step):
  """Returns a step that changes nothing between equal noise levels.

  Neither the images nor the memory of the given step change there.
  """

  def stepped(z_t, x_hat, at, memory):
    return jax.lax.cond(
      at.logsnr_t[0] == at.logsnr_s[0],
      lambda: (z_t, memory),
      lambda: step(z_t, x_hat, at, memory),
    )

  return stepped
