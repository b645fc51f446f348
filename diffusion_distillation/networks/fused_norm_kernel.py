"""The kernel of `fused_norm.py` for NVIDIA GPUs, by Pallas and Triton.

One program has whole groups of one example, so no program waits for another. It
goes over the pixels twice: once for sums, once for the result. Where all pixels
fit into one tile, as at 16x16, they are read once and stay in registers. At
32x32 a program has four tiles of 8 kB in bfloat16, and reads them again from
the cache.

Triton's arrays have sizes that are powers of two. So the edges of tiles are
masked, and any numbers of pixels, channels and groups fit. Sums over groups
take a square matrix of membership, which limits the channels of a group.

The sizes are estimates, and nothing has been measured on a GPU. With them,
Triton 3.9 needs 70 to 135 registers for each of 128 threads, so three to seven
programs share a multiprocessor, and one computes while others read. All of
32x32 as a single tile would leave room for one.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from diffusion_distillation.networks import fused_norm

_TILE = 2**12  # elements of a tile
_PER_WARP = 2**10  # of them: 32 for each thread
_MIN_WIDTH, _MAX_WIDTH = 16, 64  # channels: 32 to 128 bytes in bfloat16


def _forward_kernel(block, x_ref, mul_ref, add_ref, y_ref, mean_ref, rstd_ref):
  x = block.reader(x_ref)

  def moments(i):
    return x(i), x(i) ** 2

  mean, square = map(block.group_mean, block.sums(moments))
  rstd = fused_norm.inverse_deviation(mean, square)
  mul, add = block.read_row(mul_ref), block.read_row(add_ref)
  rows = [a[None] for a in (mean, rstd, mul, add)]

  def write(i):
    v = fused_norm.normalize(x(i), *rows)[1]
    block.write(y_ref, i, jax.nn.swish(v))

  block.for_each_tile(write)
  block.write_row(mean_ref, mean)
  block.write_row(rstd_ref, rstd)


def _backward_kernel(
  block,
  x_ref,
  mul_ref,
  add_ref,
  mean_ref,
  rstd_ref,
  dy_ref,
  dx_ref,
  dmul_ref,
  dadd_ref,
):
  x, dy = block.reader(x_ref), block.reader(dy_ref)
  mul, rstd = block.read_row(mul_ref), block.read_row(rstd_ref)
  mean, add = block.read_row(mean_ref), block.read_row(add_ref)
  rows = [a[None] for a in (mean, rstd, mul, add)]

  def normalized(i):
    x_hat, v = fused_norm.normalize(x(i), *rows)
    return x_hat, dy(i) * fused_norm.swish_slope(v)

  def products(i):
    x_hat, dv = normalized(i)
    return dv * x_hat, dv

  dmul, dadd = block.sums(products)
  means = [block.group_mean(mul * total)[None] for total in (dmul, dadd)]

  def write(i):
    x_hat, dv = normalized(i)
    dx = fused_norm.input_gradient(x_hat, dv, mul[None], rstd[None], *means)
    block.write(dx_ref, i, dx)

  block.for_each_tile(write)
  block.write_row(dmul_ref, dmul)
  block.write_row(dadd_ref, dadd)


class _Sizes:
  """How x (B, P, C) is cut into programs, and these into tiles."""

  def __init__(self, shape, groups):
    batch, self.pixels, self.channels = shape
    self.group = self.channels // groups
    rows = pl.next_power_of_2(self.pixels)
    width = min(max(_TILE // rows, _MIN_WIDTH), _MAX_WIDTH)
    # Channels of a program: whole groups, and at least one.
    self.used = self.group * max(1, min(width // self.group, groups))
    self.width = pl.next_power_of_2(self.used)
    self.rows = min(rows, _TILE // self.width)
    self.tiles = pl.cdiv(self.pixels, self.rows)
    # The first index runs fastest, so that neighbours share lines of memory.
    self.grid = pl.cdiv(self.channels, self.used), batch
    self.warps = max(1, self.rows * self.width // _PER_WARP)


class _Block:
  """Some groups of one example, inside of a kernel."""

  def __init__(self, sizes):
    self.sizes = sizes
    self.example = pl.program_id(1)
    column = jnp.arange(sizes.width, dtype=jnp.int32)
    self.channel = pl.program_id(0) * sizes.used + column
    self.inside = (column < sizes.used) & (self.channel < sizes.channels)
    group = column // sizes.group
    self.same_group = group[:, None] == group[None]

  def read_row(self, ref):
    """Returns the block's part of a (B, C) array, (width,)."""
    part = ref.at[self.example, self.channel]
    return triton.load(part, mask=self.inside, other=0.0)

  def write_row(self, ref, row):
    """Writes the block's part of a (B, C) array."""
    part = ref.at[self.example, self.channel]
    triton.store(part, row, mask=self.inside)

  def reader(self, ref):
    """Returns i -> tile i of a (B, P, C) array, (rows, width) float32.

    It is 0 outside of the array. A single tile is read once.
    """

    def read(i):
      part, inside = self._tile(ref, i)
      return triton.load(part, mask=inside, other=0.0).astype(jnp.float32)

    if self.sizes.tiles > 1:
      return read
    only = read(0)
    return lambda i: only

  def write(self, ref, i, tile):
    """Writes tile i of a (B, P, C) array."""
    part, inside = self._tile(ref, i)
    triton.store(part, tile.astype(ref.dtype), mask=inside)

  def sums(self, function):
    """Returns the sums over all pixels of two tiles, (width,) each.

    Args:
      function: i -> two arrays like tile i, 0 outside of the array.
    """

    def add(i, totals):
      return tuple(map(jnp.add, totals, function(i)))

    totals = function(0)
    if self.sizes.tiles > 1:
      totals = jax.lax.fori_loop(1, self.sizes.tiles, add, totals)
    return [jnp.sum(total, axis=0) for total in totals]

  def group_mean(self, sums):
    """Returns the mean over each channel's group, of sums over its pixels."""
    of_group = jnp.where(self.same_group, sums[None], 0.0)
    count = self.sizes.pixels * self.sizes.group
    return jnp.sum(of_group, axis=1) / count

  def for_each_tile(self, function):
    """Calls a function of i for all tiles."""
    if self.sizes.tiles == 1:
      function(0)
    else:
      pl.loop(0, self.sizes.tiles)(function)

  def _tile(self, ref, i):
    """Returns a reference to tile i, and which of it is inside the array."""
    shape = self.sizes.rows, self.sizes.width
    pixel = i * self.sizes.rows + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    channel = jnp.broadcast_to(self.channel[None], shape)
    inside = (pixel < self.sizes.pixels) & self.inside[None]
    return ref.at[self.example, pixel, channel], inside


def _call(kernel, groups, interpret, x, *arrays):
  """Returns the results of a kernel: one like x, and two of shape (B, C).

  Args:
    kernel: function of a _Block, and of references to arrays and results.
    groups: number of groups.
    interpret: whether to run it in Pallas' interpreter.
    x: (B, P, C).
    *arrays: the kernel's other arrays.
  """
  sizes = _Sizes(x.shape, groups)
  row = jax.ShapeDtypeStruct((x.shape[0], x.shape[2]), jnp.float32)
  return pl.pallas_call(
    lambda *refs: kernel(_Block(sizes), *refs),
    out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype), row, row),
    grid=sizes.grid,
    compiler_params=triton.CompilerParams(num_warps=sizes.warps),
    interpret=interpret,
    name=kernel.__name__.strip('_'),
  )(x, *arrays)


KERNELS = {
  'forward': functools.partial(_call, _forward_kernel),
  'backward': functools.partial(_call, _backward_kernel),
}
