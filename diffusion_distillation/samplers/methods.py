"""The table of samplers: what each does, costs, and how fast it converges."""

from collections.abc import Callable
from typing import NamedTuple

from diffusion_distillation.samplers.ancestral import ancestral
from diffusion_distillation.samplers.ddim import ddim
from diffusion_distillation.samplers.euler import euler
from diffusion_distillation.samplers.euler_t import euler_t
from diffusion_distillation.samplers.heun import heun
from diffusion_distillation.samplers.rk4 import rk4
from diffusion_distillation.samplers.stochastic import stochastic


class Method(NamedTuple):
  """A sampler as data."""

  # (z_t, x_hat, step) -> z_s, where x_hat is the prediction at z_t.
  advance: Callable
  # Of convergence in 1 / num_steps: to the probability flow between two noise
  # levels or, where noise is drawn, to the data's distribution. At the ends of
  # the way one step spans many units of log-SNR, however short it is in t, so
  # that an order above 1 in log-SNR does not hold for the way as a whole.
  order: int
  # Of the network, in each step but the last.
  evaluations: int = 1
  draws_noise: bool = False
  # Steps of the loop that its deterministic step spans: a student of N steps is
  # sampled so with `span` N.
  span: int = 1

  def num_evaluations(self, num_steps):
    """Returns how often a sample of that many steps asks the network."""
    return self.evaluations * (num_steps - 1) + 1


METHODS = {
  'ddim': Method(ddim, order=1),
  'ancestral': Method(ancestral, order=1, draws_noise=True),
  'stochastic': Method(stochastic, order=1, draws_noise=True, span=2),
  # Integrators of the probability-flow ODE, to compare DDIM with.
  'euler_t': Method(euler_t, order=1),
  'euler': Method(euler, order=1),
  'heun': Method(heun, order=2, evaluations=2),
  'rk4': Method(rk4, order=4, evaluations=4),
}
