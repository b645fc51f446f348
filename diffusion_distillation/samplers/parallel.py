"""DDIM with all of its steps at once: the chain of states as a fixed point.

With T steps, z_0, ..., z_T are the states from noise to data. A sweep predicts
x_hat at all of them in one batch, takes all DDIM steps, and computes the error
of each state, e_{j+1} = step(z_j) - z_{j+1}. It carries the errors on to the
later states, by the slope c_r / c_j that it assumes for the steps from j to r:

  F(z)_r = z_r + c_r sum_{j <= r} e_j / c_j,   c^2 = alpha^2 s^2 + sigma^2.

This slope is that of the exact flow of Gaussian data with standard deviation s.
The published methods differ in s: infinity is DEQ-DDIM (Pokle et al. 2022,
arXiv 2210.12867), which sums noise predictions; 1 is ParaDiGMS (Shih et al.
2023, arXiv 2305.16317); with s near 0, predictions of x are summed. All have
the states of DDIM as their only fixed point, up to the rounding of DDIM itself.
Plain sweeps reach it after T sweeps, since state r is exact after r sweeps.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_distillation.core import process
from diffusion_distillation.core.schedules import logsnr_at
from diffusion_distillation.runtime import spelling
from diffusion_distillation.samplers.grids import check_num_steps, make_grid


class Info(NamedTuple):
  """What a parallel run needed.

  Attributes:
    sweeps: (B,) sweeps until each image met the tolerance, or `max_sweeps`. The
      largest of them is the number of network evaluations in sequence.
    evaluations: network evaluations of single images in all, including those of
      images that were done and waited for others.
    residual: (B,) size of the last change, relative to the states (`picard` and
      `anderson`); for `window`, the number of states that were not reached.
    states: (T + 1, B, H, W, C), from the noise to the images.
  """

  sweeps: jax.Array
  evaluations: jax.Array
  residual: jax.Array
  states: jax.Array


class Chain(NamedTuple):
  """The steps that are to be solved.

  Attributes:
    rows: (z (n, B, ...), logsnr (n, B)) -> x_hat, like z.
    starts: (T,) noise levels at which the steps start.
    ends: (T,) noise levels at which they end; +inf is data. Where a time of 0
      is repeated, a step ends at data and the next one starts at `schedule(0)`.
  """

  rows: Callable
  starts: jax.Array
  ends: jax.Array

  @property
  def num_steps(self):
    """The number of steps, T."""
    return len(self.starts)

  def sweep(self, z, data_std, start=None):
    """Returns F(z), of the whole chain or of a part of it.

    Args:
      z: (n + 1, B, ...) states.
      data_std: s.
      start: (B,) step at which each image's part begins. A part that goes
        beyond the last state repeats it. None is the whole chain.
    """
    if start is None:
      start = jnp.zeros((z.shape[1],), jnp.int32)
    index = start[None] + jnp.arange(len(z) - 1)[:, None]  # (n, B)
    # Beyond the end, the last step is repeated without use.
    used = jnp.minimum(index, self.num_steps - 1)
    logsnr_t, logsnr_s = self.starts[used], self.ends[used]
    x_hat = self.rows(z[:-1], logsnr_t)
    stepped = process.ddim_step(z[:-1], x_hat, logsnr_t, logsnr_s)
    is_step = process.expand(index < self.num_steps, stepped)
    left = jnp.where(is_step, stepped - z[1:], 0)
    alpha, sigma = process.alpha_sigma(process.expand(logsnr_s, left))
    # c is divided by s, so that s may be infinite; only its ratios matter.
    c = jnp.hypot(alpha, sigma / data_std)
    return jnp.concatenate([z[:1], z[1:] + c * jnp.cumsum(left / c, axis=0)])


def picard(tol=1e-3, data_std=0.5):
  """Returns plain sweeps, z <- F(z).

  Args:
    tol: an image is done once |F(z) - z| < tol (1e-5 + |F(z)|), where the norms
      are over all of its states.
    data_std: s, the standard deviation of the data that sweeps assume.
  """
  return _fixed_point(tol, data_std, lambda z: (), lambda z, f, k, m: (f, m))


def anderson(tol=1e-3, m=3, lam=1e-4, beta=1.0, published=False, data_std=0.5):
  """Returns Anderson acceleration (DEQ-DDIM), each state with its own weights.

  The next z is beta sum_i w_i F(z_i) + (1 - beta) sum_i w_i z_i over the last m
  sweeps, where the w_i sum to 1 and minimize |sum_i w_i G_i|^2 + lam |w|^2,
  G_i = F(z_i) - z_i.

  Args:
    tol: as in `picard`.
    m: sweeps that are mixed.
    lam: regularization, as a share of the trace of G G^T.
    beta: share of F.
    published: whether to do as DEQ-DDIM does: take lam as it is, so that sweeps
      are only averaged once their G are small compared with lam; and also mix
      states whose F is exact.
    data_std: as in `picard`.
  """
  _check_positive(m=m, lam=lam)

  def init(z):
    return jnp.zeros((2, m, *z.shape), z.dtype)

  def update(z, f, k, memory):
    memory = memory.at[:, k % m].set(jnp.stack([z, f]))
    old_z, old_f = memory
    g = (old_f - old_z).reshape(*old_f.shape[:3], -1)
    gram = jnp.einsum('itbd,jtbd->tbij', g, g, precision='highest')
    trace = jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None]
    if not published:
      gram /= jnp.where(trace > 0, trace, 1)
    known = (jnp.arange(m) <= k).astype(gram.dtype)
    # Places of sweeps that are still to come have an equation of their own, by
    # which they get no weight.
    gram += jnp.diag(lam * known + (1 - known))[None, None]
    ones = jnp.broadcast_to(known, gram.shape[:-1])[..., None]
    weights = jnp.linalg.solve(gram, ones)[..., 0]
    weights /= jnp.sum(weights, axis=-1, keepdims=True)
    # The first sweep is plain.
    share = jnp.where(k == 0, 1, beta)
    mixed = share * old_f + (1 - share) * old_z
    weights = process.expand(jnp.moveaxis(weights, -1, 0), mixed)
    mixed = jnp.sum(weights * mixed, axis=0)
    if not published:
      exact = process.expand(jnp.arange(len(z)) <= k + 1, z)
      mixed = jnp.where(exact, f, mixed)
    return mixed, memory

  return _fixed_point(tol, data_std, init, update)


def _fixed_point(tol, data_std, init, update):
  """Returns solve(chain, z, max_sweeps) -> Info, by sweeps of the whole chain.

  Args:
    tol: as in `picard`.
    data_std: as in `picard`.
    init: z -> the memory before the first sweep.
    update: (z, F(z), number of the sweep, memory) -> (z, memory).
  """
  _check_tol(tol)
  _check_positive(data_std=data_std)

  def solve(chain, z, max_sweeps):
    num_images = z.shape[1]

    def size(z):
      return jnp.sqrt(jnp.sum(z**2, axis=(0, *range(2, z.ndim))))

    def is_on(carry):
      _, _, k, info = carry
      return (k < max_sweeps) & jnp.any(info['residual'] >= tol)

    def body(carry):
      z, memory, k, info = carry
      is_done = info['residual'] < tol
      f = chain.sweep(z, data_std)
      residual = size(f - z) / (1e-5 + size(f))
      new, memory = update(z, f, k, memory)
      # An image that is done keeps its F, so that the others do not change it.
      is_last = (residual < tol) | (k + 1 == max_sweeps)
      new = jnp.where(_along(is_last, z), f, new)
      z = jnp.where(_along(is_done, z), z, new)
      info = {
        'sweeps': info['sweeps'] + (~is_done).astype(jnp.int32),
        'residual': jnp.where(is_done, info['residual'], residual),
      }
      return z, memory, k + 1, info

    info = {
      'sweeps': jnp.zeros((num_images,), jnp.int32),
      'residual': jnp.full((num_images,), jnp.inf, z.dtype),
    }
    start = z, init(z), jnp.int32(0), info
    z, _, k, info = jax.lax.while_loop(is_on, body, start)
    evaluations = k * chain.num_steps * num_images
    return Info(evaluations=evaluations, states=z, **info)

  return solve


def window(size=10, tol=0.1, together=False, data_std=0.5):
  """Returns a sliding window of sweeps (ParaDiGMS).

  A sweep of the next `size` steps changes each state by a mean square of d. The
  window then moves to the first state with d > tol^2 v, but by at least one
  step; v is the variance of the posterior in the step that begins there.

  Args:
    size: steps in the window.
    tol: error per state, as a share of the noise that DDPM would add there.
    together: whether the windows of all images move as one, as in the original.
      An image then depends on its batch.
    data_std: as in `picard`.
  """
  _check_tol(tol)
  _check_positive(size=size, data_std=data_std)

  def solve(chain, z, max_sweeps):
    num_steps, num_images = chain.num_steps, z.shape[1]
    width = min(size, num_steps)
    # v is 0 where the step ends at data, and at data itself.
    _, sigma_s = process.alpha_sigma(chain.ends[1:])
    ratio = jnp.expm1(chain.starts[1:] - chain.ends[1:])
    variance = jnp.pad(-ratio * sigma_s**2, (1, 1))
    everyone = jnp.arange(num_images)[None]
    places = jnp.arange(width + 1)[:, None]

    def is_on(carry):
      _, start, k, _ = carry
      return (k < max_sweeps) & jnp.any(start < num_steps)

    def body(carry):
      z, start, k, sweeps = carry
      index = jnp.minimum(start[None] + places, num_steps)  # (width + 1, B)
      old = z[index, everyone]
      new = chain.sweep(old, data_std, start)
      change = jnp.mean((new - old) ** 2, axis=tuple(range(2, z.ndim)))
      is_far = change[1:] > tol**2 * variance[index[1:]]
      first = jnp.where(is_far.any(0), jnp.argmax(is_far, axis=0), width - 1)
      first = jnp.min(first) if together else first
      z = z.at[index, everyone].set(new)
      # States that enter the window start as a copy of its last one.
      enters = jnp.arange(num_steps + 1)[:, None] > start[None] + width
      z = jnp.where(process.expand(enters, z), new[-1:], z)
      sweeps += (start < num_steps).astype(jnp.int32)
      start = jnp.minimum(start + 1 + first, num_steps)
      return z, start, k + 1, sweeps

    zeros = jnp.zeros((num_images,), jnp.int32)
    z, start, k, sweeps = jax.lax.while_loop(
      is_on, body, (z, zeros, jnp.int32(0), zeros)
    )
    evaluations = k * width * num_images
    return Info(sweeps, evaluations, num_steps - start, z)

  return solve


def _check_positive(**options):
  for name, value in options.items():
    if not value > 0:
      raise ValueError(f'{name} must be positive, got {value}')


def _check_tol(tol):
  if not tol >= 0:
    raise ValueError(f'tol must be at least 0, got {tol}')


def _along(values, z):
  """Returns (B,) values as (1, B, 1, ...)."""
  return process.expand(values[None], z)


# name -> factory of solve(chain, states, max_sweeps) -> Info.
METHODS = {'picard': picard, 'anderson': anderson, 'window': window}


def parallel_sample(
  denoise,
  z_1,
  *,
  schedule,
  num_steps,
  method='picard',
  grid='uniform',
  clip=True,
  max_sweeps=None,
  start=None,
  devices=None,
  **options,
):
  """Returns the images of DDIM, (B, H, W, C) float32, and an Info.

  It needs fewer network evaluations in sequence than DDIM, and more in all: it
  pays where a batch of T B images takes less than T times as long as one of B.

  Args:
    denoise: (z, logsnr) -> x_hat of B images. It is mapped over the steps by
      `jax.vmap`, so it may be bound to conditions of B images.
    z_1: as in `sample`.
    schedule: t -> logsnr.
    num_steps: T, an int.
    method: spelling of a method in METHODS, such as 'anderson:m=3'.
    grid: as in `sample`.
    clip: whether every x_hat is clipped to [-1, 1].
    max_sweeps: largest number of sweeps; None is T, after which the result is
      exact.
    start: (T + 1, B, H, W, C) states to begin with, such as those of a similar
      z_1, or None.
    devices: several devices that share the steps of a sweep; T, or the size of
      the window, must be a multiple of their number. None uses one.
    **options: options of the method.

  Raises:
    ValueError: the method, an option or the grid is unknown, or a value is not
      valid.
  """
  solve = spelling.make(METHODS, method, 'parallel method', **options)
  chain = make_chain(denoise, schedule, num_steps, grid, clip, devices)
  if max_sweeps is not None and max_sweeps < 1:
    raise ValueError(f'max_sweeps must be at least 1, got {max_sweeps}')
  if start is None:
    levels = jnp.append(chain.starts[:1], chain.ends)
    _, sigma = process.alpha_sigma(levels)
    start = process.expand(sigma, z_1[None]) * z_1[None]
  chex.assert_shape(start, (num_steps + 1, *z_1.shape))
  start = start.at[0].set(z_1)
  info = solve(chain, start, num_steps if max_sweeps is None else max_sweeps)
  return info.states[-1], info


def make_chain(
  denoise, schedule, num_steps, grid='uniform', clip=True, devices=None
):
  """Returns the Chain of T DDIM steps; see `parallel_sample`."""
  check_num_steps(num_steps, grid)
  index = num_steps - jnp.arange(num_steps + 1)
  times = make_grid(grid, schedule)(index, num_steps)

  def rows(z, logsnr):
    x_hat = jax.vmap(denoise)(z, logsnr)
    return jnp.clip(x_hat, -1, 1) if clip else x_hat

  if devices is not None:
    rows = _split(rows, devices)
  return Chain(rows, schedule(times[:-1]), logsnr_at(schedule, times[1:]))


def _split(rows, devices):
  """Returns `rows` whose leading axis is split over devices."""
  mesh = Mesh(np.asarray(devices), ('steps',))
  part, whole = PartitionSpec('steps'), PartitionSpec()
  parts = jax.shard_map(rows, mesh=mesh, in_specs=(part, part), out_specs=part)

  def call(z, logsnr):
    if len(z) % len(devices):
      raise ValueError(
        f'{len(z)} steps at once cannot be split over {len(devices)} devices'
      )
    x_hat = parts(z, logsnr)
    return jax.lax.with_sharding_constraint(x_hat, NamedSharding(mesh, whole))

  return call
