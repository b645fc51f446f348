"""GroupNorm, modulation and swish as one operation.

  fused_norm(x) = swish(GroupNorm(x) * (1 + scale) + shift)
                = swish(x_hat * mul + add),    x_hat = (x - mean) * rstd,

where mul = gamma * (1 + scale) and add = beta * (1 + scale) + shift are small:
one number for each example and channel. The backward pass keeps x and small
arrays, and computes the rest again; autodiff of the separate layers keeps
several arrays of x's size, some of them float32.

The formulas have two forms. XLA's, below, runs everywhere and is the reference.
On NVIDIA GPUs it is replaced by the kernel of `fused_norm_kernel.py`, which has
never run on one: it is tested in Pallas' interpreter on CPU.
"""

import functools

import jax
import jax.numpy as jnp

_EPS = 1e-6  # as Flax's GroupNorm
_MAX_GROUP = 64  # channels per group that the kernel can hold


def fused_norm(
  x, gamma, beta, scale=None, shift=None, *, groups, interpret=False
):
  """Returns swish(GroupNorm(x) * (1 + scale) + shift), like x.

  All is computed in float32, with the variance as E[x^2] - E[x]^2 like Flax's,
  and rounded once. It has gradients, but no forward-mode derivative
  (`jax.jvp`). The kernel takes all image sizes and numbers of groups; groups of
  more than 64 channels are left to XLA.

  Args:
    x: (B, H, W, C), float32 or a 16-bit type.
    gamma: (C,) float32, the scale of GroupNorm.
    beta: (C,) float32, its bias.
    scale: (B, C), or None for no modulation.
    shift: (B, C), or None like `scale`.
    groups: number of groups, which divides C.
    interpret: run the kernel in Pallas' interpreter, slowly, on any device.
  """
  batch, channels = x.shape[0], x.shape[-1]
  mul, add = (
    jnp.broadcast_to(array[None], (batch, channels)) for array in (gamma, beta)
  )
  if scale is not None:
    scale, shift = scale.astype(jnp.float32), shift.astype(jnp.float32)
    mul, add = mul * (1 + scale), add * (1 + scale) + shift
  pixels = x.reshape(batch, -1, channels)
  return _norm_swish(pixels, mul, add, groups, interpret).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm_swish(x, mul, add, groups, interpret):
  """Returns swish(x_hat * mul + add), for x (B, P, C) and mul, add (B, C)."""
  return _forward(x, mul, add, groups, interpret)[0]


def _forward(x, mul, add, groups, interpret):
  """Returns the result, and what the backward pass needs."""
  y, mean, rstd = _run('forward', groups, interpret, x, mul, add)
  return y, (x, mul, add, mean, rstd)


def _backward(groups, interpret, saved, dy):
  """Returns the gradients of x, mul and add."""
  return _run('backward', groups, interpret, *saved, dy)


_norm_swish.defvjp(_forward, _backward)


def _run(way, groups, interpret, *arrays):
  """Returns the results of one direction, by the kernel or by XLA."""
  by_xla = functools.partial(_XLA[way], groups)
  if arrays[0].shape[-1] // groups > _MAX_GROUP:
    return by_xla(*arrays)
  # Imported here, since other networks and devices do without Pallas, and JAX
  # 0.11 deprecates its Triton backend.
  from diffusion_distillation.networks import fused_norm_kernel

  kernel = functools.partial(fused_norm_kernel.KERNELS[way], groups, interpret)
  if interpret:
    return kernel(*arrays)
  return jax.lax.platform_dependent(*arrays, cuda=kernel, default=by_xla)


def _forward_xla(groups, x, mul, add):
  """Returns y, like x, and mean and rstd of each channel's group, (B, C)."""
  values = x.astype(jnp.float32)
  mean = _group_mean(groups, jnp.mean(values, axis=1))
  square = _group_mean(groups, jnp.mean(values**2, axis=1))
  rstd = inverse_deviation(mean, square)
  v = normalize(values, *(a[:, None] for a in (mean, rstd, mul, add)))[1]
  return jax.nn.swish(v).astype(x.dtype), mean, rstd


def _backward_xla(groups, x, mul, add, mean, rstd, dy):
  """Returns dx, like x, and dmul and dadd, (B, C)."""
  rows = [a[:, None] for a in (mean, rstd, mul, add)]
  x_hat, v = normalize(x.astype(jnp.float32), *rows)
  dv = dy.astype(jnp.float32) * swish_slope(v)
  dmul, dadd = jnp.sum(dv * x_hat, axis=1), jnp.sum(dv, axis=1)
  means = (
    _group_mean(groups, mul * total / x.shape[1])[:, None]
    for total in (dmul, dadd)
  )
  dx = input_gradient(x_hat, dv, mul[:, None], rstd[:, None], *means)
  return dx.astype(x.dtype), dmul, dadd


_XLA = {'forward': _forward_xla, 'backward': _backward_xla}


def _group_mean(groups, values):
  """Returns the mean over each channel's group, (B, C) like `values`."""
  batch, channels = values.shape
  means = jnp.mean(values.reshape(batch, groups, -1), axis=-1)
  return jnp.repeat(means, channels // groups, axis=1)


# The formulas that XLA's form and the kernel share. All arrays are float32.


def inverse_deviation(mean, square):
  """Returns 1 / (standard deviation), from the means of x and x^2."""
  # Rounding can make the difference negative.
  return jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + _EPS)


def normalize(x, mean, rstd, mul, add):
  """Returns x_hat, and v, of which the result is the swish."""
  x_hat = (x - mean) * rstd
  return x_hat, x_hat * mul + add


def swish_slope(v):
  """Returns the derivative of v * sigmoid(v)."""
  sigmoid = jax.nn.sigmoid(v)
  return sigmoid * (1 + v * (1 - sigmoid))


def input_gradient(x_hat, dv, mul, rstd, mean_of_product, mean):
  """Returns the gradient of x, from that of v.

  Args:
    x_hat: normalized input.
    dv: gradient of v.
    mul: factor of x_hat in v.
    rstd: inverse deviation.
    mean_of_product: mean of (dv * mul) * x_hat over the group.
    mean: mean of dv * mul over the group.
  """
  return rstd * (dv * mul - mean - x_hat * mean_of_product)
