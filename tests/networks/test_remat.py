"""Activations that are computed again are the same, and are not kept."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.networks.denoiser import build_denoiser

ARGS = {'ch': 4, 'emb_ch': 8, 'ch_mult': (1,), 'num_res_blocks': 1}
ARGS |= {'attn_resolutions': (8,), 'num_heads': 2, 'dropout': 0.3}


@functools.cache
def build(remat, **args):
  args = {**ARGS, **args, 'remat': remat}
  return build_denoiser(
    {'name': 'unet_iddpm', 'mean_type': 'v', 'args': args}, (8, 8, 1), 3
  )


def loss(denoiser, params):
  """Returns the mean square of x_hat, with everything active, and x_hat."""
  rng = np.random.RandomState(0)
  z = jnp.asarray(rng.standard_normal((3, 8, 8, 1)), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 3)
  denoise = denoiser.bind(params, jnp.arange(3), keys)
  x_hat = denoise(z, jnp.array([-3.0, 0.0, 3.0]))
  return jnp.mean(x_hat**2), x_hat


def compute(denoiser, params):
  """Returns the loss, x_hat and gradients, by a program that compiles fast."""
  function = jax.value_and_grad(functools.partial(loss, denoiser), has_aux=True)
  options = {'xla_backend_optimization_level': 0}
  return jax.jit(function, compiler_options=options)(params)


def test_outputs_and_gradients_are_the_same():
  plain, remat = build(False), build(True)
  chex.assert_trees_all_equal(plain.param_shapes(), remat.param_shapes())
  rng = np.random.RandomState(1)
  params = jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32) / 2,
    plain.param_shapes(),
  )
  (want, x_hat), grads = compute(plain, params)
  (got, again), others = compute(remat, params)
  # The operations are the same, but XLA may fuse and reorder them.
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(again, x_hat, atol=1e-5)
  # The scale is that of all gradients, since some are 0 up to rounding: keys
  # have no effective bias.
  scale = float(optax.tree.norm(grads))
  assert 1e-2 < scale < np.inf
  chex.assert_trees_all_close(others, grads, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_remat_keeps_a_fraction_for_the_gradient(dtype):
  # JAX reports what the backward pass keeps.
  def kept(remat):
    denoiser = build(remat, ch=32, dtype=dtype)
    with jax.numpy_dtype_promotion('standard'):  # flax's GroupNorm mixes types
      backward = jax.eval_shape(
        lambda p: jax.vjp(lambda p: loss(denoiser, p)[0], p)[1],
        denoiser.param_shapes(),
      )
    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward)
    )

  assert kept(remat=True) < kept(remat=False) / 3
