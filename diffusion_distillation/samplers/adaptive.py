"""The probability flow as a black box: an integrator with adaptive steps.

It is not in the table of samplers, since the number of evaluations is a result
and not an argument. The integrator is diffrax's Dormand-Prince method, the RK45
of SciPy, which compiles together with the network. Its variable is the log-SNR
(Eq. 5 of core/process.py), in which the flow is smooth and slow at both ends;
in t it is steep there.

All images of a batch share their steps, since a network is bound to the
conditions of a whole batch. The error of a step is that of its worst image, so
every image meets the tolerance, whatever the other images are. (The norm over a
whole batch, as in score_sde, lets one image be worse if the others are good.)
"""

import chex
import diffrax
import jax
import jax.numpy as jnp

from diffusion_distillation.core import process

_MAX_STEPS = 4096  # 10 to 100 are usual
# A share of the whole interval. If the network returns NaN, the steps become
# shorter than that after 7 of them, and the integration fails.
_SHORTEST_STEP = 1e-6


def integrate(
  denoise, z, *, schedule, start=1.0, end=0.0, rtol=1e-5, atol=1e-5
):
  """Returns images moved along the probability flow, and the evaluations made.

  From start = 1 to end = 0 it samples, and from 0 to 1 it encodes. Time 0 is
  the least noise of the schedule here, and not data itself, which is infinitely
  far away in log-SNR: at log-SNR 20 the result differs from data by noise of
  5e-5. x_hat is not clipped.

  Args:
    denoise: (z, logsnr) -> x_hat.
    z: (B, H, W, C) noisy images at time `start`.
    schedule: t -> logsnr, finite at both times.
    start: time to start from.
    end: time to go to, earlier or later.
    rtol: relative tolerance of the root mean square error of a step.
    atol: absolute tolerance. In float32, tolerances whose sum is below 1e-6
      cost evaluations, but do not make the result more exact.

  Returns:
    z at `end`, and the number of network evaluations (NFE), a scalar. z is NaN
    where the integration failed.
  """
  chex.assert_type(z, float)

  def flow(z, logsnr):
    return process.probability_flow(z, denoise(z, logsnr), logsnr)

  levels = schedule(jnp.asarray([start, end], z.dtype))
  return solve(flow, z, levels, rtol=rtol, atol=atol)


def solve(flow, y, levels, *, rtol, atol):
  """Returns the solution of dy / dlogsnr = flow(y, logsnr), and its NFE.

  Args:
    flow: (y, logsnr (B,)) -> dy / dlogsnr, with one network evaluation.
    y: pytree of arrays (B, ...), at levels[0].
    levels: (2,) log-SNR of start and end.
    rtol: see `integrate`.
    atol: see `integrate`.

  Returns:
    See `integrate`.
  """
  num_images = jax.tree.leaves(y)[0].shape[0]
  length = levels[1] - levels[0]
  controller = diffrax.PIDController(
    rtol,
    atol,
    dtmin=_SHORTEST_STEP * jnp.abs(length),
    force_dtmin=False,  # a shorter step is a failure
    norm=_worst_image,
  )

  def of_batch(logsnr, y, _):
    return flow(y, jnp.full((num_images,), logsnr))

  solution = diffrax.diffeqsolve(
    diffrax.ODETerm(of_batch),
    diffrax.Dopri5(),
    t0=levels[0],
    t1=levels[1],
    dt0=length / 100,
    y0=y,
    stepsize_controller=controller,
    max_steps=_MAX_STEPS,
    adjoint=diffrax.ForwardMode(),
    throw=False,
  )
  is_done = solution.result == diffrax.RESULTS.successful
  y = jax.tree.map(lambda end: jnp.where(is_done, end[0], jnp.nan), solution.ys)
  # The last of the 7 stages of a step is the first one of the next, and the
  # first one of a rejected step is used again.
  return y, 1 + 6 * solution.stats['num_steps']


def _worst_image(error):
  """Returns the largest over the images of the largest RMS over the arrays."""
  squares = [
    jnp.mean(leaf**2, axis=tuple(range(1, leaf.ndim)))
    for leaf in jax.tree.leaves(error)
  ]
  return jnp.sqrt(jnp.max(jnp.stack(squares)))
