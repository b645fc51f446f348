"""Finds the noise of images, by reversed DDIM or optimization; also slerp."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_distillation.core import process, schedules
from diffusion_distillation.samplers.grids import check_num_steps, make_grid
from diffusion_distillation.samplers.loop import sample
from diffusion_distillation.samplers.parallel import parallel_sample


def encode(
  denoise,
  x,
  *,
  schedule,
  num_steps,
  grid='uniform',
  clip=True,
  iterations=0,
):
  """Returns the noise from which `ddim` draws given images, like x.

  A step from s up to t is DDIM's formula with x_hat(z_s) in place of
  x_hat(z_t), which is not known yet (Song et al. 2020, arXiv 2010.02502,
  section 4.3). Each iteration corrects z_t by the error of the step back to s,

    z_t <- z_t + z_s - ddim_step(z_t, x_hat(z_t), t -> s),

  whose fixed point is an exact inverse. The result is the noise of these images
  under this sampler. It may not look like noise if x_hat is clipped, or if the
  network would not draw such images.

  The first step starts at data, where there is no x_hat. It takes the images
  for z at the first noisy time, and iterations correct z until x_hat(z) are the
  images.

  Args:
    denoise: (z, logsnr) -> x_hat.
    x: (B, H, W, C) float32 images in [-1, 1]; or z at the last time of the
      grid, if that is not 0.
    schedule: t -> logsnr.
    num_steps: as in `sample`.
    grid: as in `sample`.
    clip: as in the sampling that is to be inverted.
    iterations: corrections of each step, one network evaluation each.
  """
  check_num_steps(num_steps, grid)
  time_of = make_grid(grid, schedule)

  def predict(z, logsnr):
    x_hat = denoise(z, logsnr)
    return jnp.clip(x_hat, -1, 1) if clip else x_hat

  def body(index, z_s):
    t, s = (
      jnp.full((x.shape[0],), time_of(i, num_steps)) for i in (index + 1, index)
    )
    logsnr_t, logsnr_s = schedule(t), schedules.logsnr_at(schedule, s)

    def step_up():
      return process.ddim_step(z_s, predict(z_s, logsnr_s), logsnr_s, logsnr_t)

    def correct(_, z_t):
      x_hat = predict(z_t, logsnr_t)
      return z_t + z_s - process.ddim_step(z_t, x_hat, logsnr_t, logsnr_s)

    z_t = jax.lax.cond(s[0] == 0, lambda: z_s, step_up)
    return jax.lax.fori_loop(0, iterations, correct, z_t)

  return jax.lax.fori_loop(0, num_steps, body, x)


class Inversion(NamedTuple):
  """The result of an optimization, and its course.

  Attributes:
    z_1: like the images, the noise that was found.
    losses: (updates, B) squared errors of the images, summed over pixels,
      before each update.
    seconds: (updates,) since the start, without compilation.
  """

  z_1: jax.Array
  losses: np.ndarray
  seconds: np.ndarray


def invert(
  denoise,
  x,
  z_1,
  *,
  schedule,
  num_steps,
  updates,
  by='deq',
  learning_rate=0.005,
  grid=None,
  clip=True,
  **options,
):
  """Looks for the noise of given images by Adam; returns an Inversion.

  Args:
    denoise: (z, logsnr) -> x_hat.
    x: (B, H, W, C) float32 images in [-1, 1].
    z_1: like x, noise to start from, such as that of `encode`.
    schedule: t -> logsnr.
    num_steps: DDIM steps, an int.
    updates: number of updates.
    by: the gradient: 'backprop' differentiates through all steps of `sample`;
      'deq' solves the chain by `parallel_sample`, starting from the states of
      the update before, and takes a `phantom_gradient`.
    learning_rate: of Adam.
    grid: as in `sample`.
    clip: as in `sample`.
    **options: of `parallel_sample`, for 'deq'.

  Raises:
    ValueError: `by` is unknown, or 'backprop' got options.
  """
  if by == 'backprop' and options:
    raise ValueError(f'backprop has no options, got {", ".join(options)}')
  given = {
    'schedule': schedule,
    'num_steps': num_steps,
    'grid': grid,
    'clip': clip,
  }

  def squared_errors(images):
    return jnp.sum((images - x) ** 2, axis=tuple(range(1, x.ndim)))

  def backprop(z_1, states):
    def loss(z_1):
      losses = squared_errors(sample(denoise, z_1, **given))
      return losses.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(z_1)
    return gradient, losses, states

  def deq(z_1, states):
    images, info = parallel_sample(
      denoise, z_1, start=states, **given, **options
    )
    gradient = phantom_gradient(images, x, schedule(jnp.ones(())))
    return gradient, squared_errors(images), info.states

  gradients = {'backprop': backprop, 'deq': deq}
  if by not in gradients:
    raise ValueError(f'unknown by={by!r}; known: {", ".join(gradients)}')
  adam = optax.adam(learning_rate)

  @jax.jit
  def update(z_1, state, states):
    gradient, losses, states = gradients[by](z_1, states)
    change, state = adam.update(gradient, state)
    return z_1 + change, state, states, losses

  states = jnp.broadcast_to(z_1, (num_steps + 1, *z_1.shape))
  carry = z_1, adam.init(z_1), states
  update = update.lower(*carry).compile()
  losses, seconds, started = [], [], time.perf_counter()
  for _ in range(updates):
    *carry, loss = update(*carry)
    losses.append(np.asarray(loss))
    seconds.append(time.perf_counter() - started)
  return Inversion(carry[0], np.array(losses), np.array(seconds))


def phantom_gradient(images, x, logsnr_1, tau=0.1):
  """Returns a phantom gradient of |images - x|^2 with respect to z_1.

  It is that of one damped sweep, (1 - tau) z + tau F(z), at the fixed point
  z = F(z) of DEQ-DDIM (arXiv 2210.12867). The states count as constants, so it
  needs no Jacobian of the network, and z_1 enters F as z_1 / alpha_1. It is
  therefore

    tau 2 (images - x) / alpha_1.

  Adam divides by the size of gradients, so tau has no influence on it.
  """
  alpha, _ = process.alpha_sigma(logsnr_1)
  return 2 * tau * (images - x) / alpha


def slerp(a, b, weight):
  """Returns points on the arcs from a to b (Song et al. 2020, section 5.3).

  They are sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b,
  where theta is the angle between the noise of one image and that of another.
  Where theta is 0, this is linear. Opposite points have no unique arc.

  Args:
    a: (B, ...) noise.
    b: like a.
    weight: (B,), 0 gives a and 1 gives b.
  """

  def norm(z):
    axes = tuple(range(1, z.ndim))
    return jnp.sqrt(jnp.sum(z**2, axis=axes, keepdims=True))

  # Unlike the arccosine, this is exact for small angles, too.
  unit_a, unit_b = a / norm(a), b / norm(b)
  theta = 2 * jnp.arctan2(norm(unit_a - unit_b), norm(unit_a + unit_b))
  weight = process.expand(weight, a)

  def share(weight):
    return weight * jnp.sinc(weight * theta / jnp.pi) / jnp.sinc(theta / jnp.pi)

  return share(1 - weight) * a + share(weight) * b
