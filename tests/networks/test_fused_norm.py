"""The fused norm against Flax's layers: both forms, and their gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from diffusion_distillation.networks import fused_norm_kernel, layers
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.networks.fused_norm import fused_norm

GPU = AbstractMesh(
  (), (), abstract_device=AbstractDevice('NVIDIA H100 80GB HBM3', None, 'gpu')
)


def arrays(shape, modulated=True, dtype=np.float32):
  """Returns (x, gamma, beta, scale, shift), and a cotangent of the result."""
  rng = np.random.RandomState(0)
  batch, *_, channels = shape
  x, cotangent = 1 + 2 * rng.standard_normal((2, *shape))
  gamma, beta = rng.standard_normal((2, channels))
  rows = rng.standard_normal((2, batch, channels)) if modulated else ()
  x, cotangent = (jnp.asarray(a, dtype) for a in (x, cotangent))
  rest = (jnp.asarray(a, jnp.float32) for a in (gamma, beta, *rows))
  return (x, *rest), cotangent


def layer_by_layer(groups, x, gamma, beta, scale=None, shift=None):
  params = {'scale': gamma, 'bias': beta}
  h = nn.GroupNorm(groups).apply({'params': params}, x)
  if scale is not None:
    h = h * (1 + scale[:, None, None]) + shift[:, None, None]
  return nn.swish(h)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(function, args, cotangent):
  y, backward = jax.vjp(function, *args)
  return y, backward(cotangent.astype(y.dtype))


@functools.cache
def expected(shape, groups, modulated, dtype):
  """Returns what Flax's layers give in float32, for the same input."""
  args, cotangent = arrays(shape, modulated, dtype)
  function = functools.partial(layer_by_layer, groups)
  args, cotangent = jax.tree.map(jnp.float32, (args, cotangent))
  return with_gradients(function, args, cotangent)


def check(shape, groups, interpret, modulated=True, dtype=jnp.float32):
  """Compares result and gradients with those of Flax's layers."""
  args, cotangent = arrays(shape, modulated, dtype)
  function = functools.partial(fused_norm, groups=groups, interpret=interpret)
  y, grads = with_gradients(function, args, cotangent)
  assert y.dtype == grads[0].dtype == dtype
  want, want_grads = expected(shape, groups, modulated, dtype)
  # 16-bit results are computed in float32, too, and rounded once.
  once = 0 if dtype == jnp.float32 else float(jnp.finfo(dtype).eps) / 2
  compare = np.testing.assert_allclose
  compare(np.float32(y), want, rtol=1e-5 + once, atol=1e-5)
  compare(np.float32(grads[0]), want_grads[0], rtol=1e-4 + once, atol=1e-5)
  for got, wanted in zip(grads[1:], want_grads[1:], strict=True):
    compare(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('shape', 'groups', 'options'),
  [
    ((2, 7, 7, 6), 2, {}),  # no size is a power of two
    ((2, 4, 4, 32), 32, {'modulated': False, 'dtype': jnp.bfloat16}),
  ],
)
@pytest.mark.parametrize('interpret', [False, True])
def test_it_is_the_layers_in_one(shape, groups, interpret, options):
  check(shape, groups, interpret, **options)


def test_the_kernel_takes_several_tiles_and_programs(monkeypatch):
  # Programs of two groups, 6 of 8 channels, and one of a single group. Tiles of
  # 16 pixels: three, and a part of one.
  monkeypatch.setattr(fused_norm_kernel, '_TILE', 128)
  monkeypatch.setattr(fused_norm_kernel, '_MIN_WIDTH', 8)
  sizes = fused_norm_kernel._Sizes((2, 49, 9), 3)
  assert (sizes.used, sizes.width, sizes.grid) == (6, 8, (2, 2))
  assert (sizes.rows, sizes.tiles) == (16, 4)
  check((2, 7, 7, 9), 3, True)


def lowered(shape, groups, batch=()):
  """Returns the program of result and gradients for an NVIDIA GPU, as text.

  Args:
    shape: of x.
    groups: number of groups.
    batch: shape of further dimensions, for `jax.vmap`.
  """
  function = functools.partial(fused_norm, groups=groups)
  program = functools.partial(with_gradients.__wrapped__, function)
  for _ in batch:
    program = jax.vmap(program)
  channels = shape[-1:]
  rows = (shape[0], *channels)
  x, gamma, row = (
    jax.ShapeDtypeStruct((*batch, *s), jnp.bfloat16)
    for s in (shape, channels, rows)
  )
  gamma = jax.ShapeDtypeStruct(gamma.shape, jnp.float32)
  with use_abstract_mesh(GPU):
    traced = jax.jit(program).trace((x, gamma, gamma, row, row), x)
    return traced.lower(lowering_platforms=('cuda',)).as_text()


@pytest.mark.parametrize(
  ('shape', 'groups', 'kernels'),
  [
    ((2, 32, 32, 256), 32, 2),
    ((2, 64, 64, 384), 32, 2),
    ((2, 14, 14, 2048), 32, 2),
    ((2, 7, 7, 6), 2, 2),
    ((2, 8, 8, 130), 2, 0),  # groups of 65 channels are left to XLA
  ],
)
def test_a_gpu_gets_the_kernel(shape, groups, kernels):
  # Lowering for Triton refuses what it cannot express, such as other sizes of
  # arrays than powers of two.
  assert lowered(shape, groups).count('custom_call @__gpu') == kernels


def test_the_kernel_has_a_batched_form():
  text = lowered((2, 8, 8, 64), 32, batch=(3,))
  assert text.count('custom_call @__gpu') == 2


def test_only_x_is_kept_for_the_gradient():
  args, x = arrays((2, 8, 8, 32), dtype=jnp.bfloat16)
  function = functools.partial(fused_norm, groups=32)
  kept = jax.eval_shape(lambda *a: jax.vjp(function, *a)[1], *args)
  large = [leaf for leaf in jax.tree.leaves(kept) if leaf.size >= x.size]
  assert [leaf.dtype for leaf in large] == [jnp.bfloat16]


def test_a_residual_block_is_the_same():
  rng = np.random.RandomState(0)
  x, emb = (
    jnp.asarray(rng.standard_normal(shape), jnp.float32)
    for shape in ((2, 4, 4, 6), (2, 5))
  )
  blocks = [
    layers.ResnetBlock(8, 0.0, 'down', norm=norm) for norm in ('flax', 'fused')
  ]
  shapes, same = (
    jax.eval_shape(block.init, jax.random.key(0), x, emb, None)
    for block in blocks
  )
  assert shapes == same  # so checkpoints stay valid
  assert shapes['params']['norm2'].keys() == {'scale', 'bias'}
  variables = jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes
  )
  want, got = (
    jax.jit(block.apply)(variables, x, emb, None) for block in blocks
  )
  assert float(jnp.std(want)) > 1
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


ARGS = {'ch': 4, 'emb_ch': 4, 'ch_mult': (1,), 'num_res_blocks': 1}
ARGS |= {'attn_resolutions': (), 'num_heads': 1}


def unet(**args):
  model = {'name': 'unet_iddpm', 'mean_type': 'v', 'args': {**ARGS, **args}}
  return build_denoiser(model, (4, 4, 1), 1)


def test_all_residual_blocks_of_a_unet_use_it():
  denoiser, z = unet(norm='fused'), jnp.zeros((1, 4, 4, 1))

  def predict(params):
    return denoiser.bind(params, None)(z, jnp.zeros(1))

  program = str(jax.make_jaxpr(predict)(denoiser.param_shapes()))
  # Two in each block: one down, two in the middle, two up.
  assert program.count('custom_vjp_call[') == 10


def test_plain_layers_have_forward_derivatives():
  args, _ = arrays((1, 2, 2, 2))

  def slope(x):
    function = functools.partial(fused_norm, groups=2)
    return jax.jvp(lambda x: function(x, *args[1:]), (x,), (x,))[1]

  with pytest.raises(TypeError, match='forward-mode'):
    jax.jit(slope).lower(args[0])
  fused = unet(norm='fused', dtype='bfloat16', dropout=0.5, remat=True)
  assert fused.plain() == unet(dropout=0.5)


def test_an_unknown_norm_is_refused():
  with pytest.raises(ValueError, match="unknown norm 'batch'; known: flax, fu"):
    unet(norm='batch')
