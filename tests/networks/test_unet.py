import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.networks import layers
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.networks.unet import LOGSNR_INPUTS, UNet

SMALL = {'ch': 8, 'emb_ch': 16, 'ch_mult': (1, 2), 'num_res_blocks': 1}
SMALL |= {'attn_resolutions': (4,)}
QUICK = {'xla_backend_optimization_level': 0}  # compiles fast, runs slowly


def shapes(height=8, **args):
  """Returns parameter and output shapes; computes nothing."""
  network = UNet(**{'out_ch': 3, **SMALL, **args})
  x, logsnr = jnp.zeros((2, height, height, 3)), jnp.zeros(2)
  return jax.eval_shape(
    lambda: network.init_with_output(
      jax.random.key(0), x, logsnr, jnp.zeros(2, jnp.int32), train=False
    )
  )


def count(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables))


# Counts for the paper's networks (appendix E), not computed by this code.
@pytest.mark.parametrize(
  ('size', 'want', 'args'),
  [
    (
      32,
      60_004_099,
      {
        'ch': 256,
        'emb_ch': 1024,
        'ch_mult': (1, 1, 1),
        'num_res_blocks': 3,
        'attn_resolutions': (8, 16),
      },
    ),
    (
      64,
      295_905_222,
      {
        'num_classes': 1000,
        'out_ch': 6,
        'ch': 192,
        'emb_ch': 768,
        'ch_mult': (1, 2, 3, 4),
        'num_res_blocks': 3,
        'attn_resolutions': (8, 16, 32),
        'num_heads': None,
        'head_dim': 64,
      },
    ),
    (
      128,
      139_578_502,
      {
        'out_ch': 6,
        'ch': 64,
        'emb_ch': 768,
        'ch_mult': (1, 2, 4, 6, 8),
        'num_res_blocks': 3,
        'attn_resolutions': (8, 16, 32),
        'num_heads': None,
        'head_dim': 64,
      },
    ),
  ],
)
def test_the_paper_s_networks_have_their_parameters(size, want, args):
  output, variables = shapes(size, **args)
  assert count(variables) == want
  assert output.shape == (2, size, size, args.get('out_ch', 3))


def test_convolutions_resample_under_the_same_names():
  _, blocks = shapes()
  output, variables = shapes(resblock_resample=False)
  assert output.shape == (2, 8, 8, 3)
  params = variables['params']
  assert params['down_0.downsample']['kernel'].shape == (3, 3, 8, 8)
  assert params['up_1.upsample']['kernel'].shape == (3, 3, 16, 16)
  assert params.keys() == blocks['params'].keys()


@pytest.mark.parametrize('ch', [4, 12, 40, 48])
def test_any_even_number_of_channels_works(ch):
  output, _ = shapes(ch=ch)
  assert output.shape == (2, 8, 8, 3)


def test_head_dim_sets_the_number_of_heads():
  _, variables = shapes(num_heads=None, head_dim=4)
  assert variables['params']['mid.attn_1']['q']['kernel'].shape == (16, 4, 4)


def test_bfloat16_computes_but_does_not_store():
  with jax.numpy_dtype_promotion('standard'):  # flax's GroupNorm mixes types
    output, variables = shapes(dtype='bfloat16')
  assert output.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    np.dtype('float32')
  }


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ({'logsnr_input_type': 'cos'}, 'inv_cos, linear, sigmoid'),
    ({'ch': 7}, 'even'),
    ({'ch_mult': (0,)}, 'ch_mult'),
    ({'logsnr_scale_range': (1.0,)}, 'logsnr_scale_range'),
    ({'logsnr_scale_range': (2.0, 2.0)}, 'logsnr_scale_range'),
    ({'height': 9}, 'cannot be halved'),
    ({'height': 16}, 'no level of 16x16 .* 4 pixels high; .* are 16, 8'),
    ({'dtype': 'int8'}, 'float32, bfloat16'),
    ({'head_dim': 8}, 'either num_heads or head_dim'),
    ({'num_heads': 3}, 'attention heads'),
    ({'num_heads': None, 'head_dim': 64}, 'attention heads'),
  ],
)
def test_invalid_attributes_are_refused(args, message):
  with pytest.raises(ValueError, match=message):
    shapes(**args)


def test_the_noise_level_enters_as_a_position_in_0_to_1():
  # At logsnr 0: half of the angle, sigmoid(0), and the middle of the range.
  for function in LOGSNR_INPUTS.values():
    np.testing.assert_allclose(function(jnp.zeros(1), -10, 10), 0.5, rtol=1e-6)
  ends = jnp.array([20.0, -20.0])
  np.testing.assert_allclose(
    LOGSNR_INPUTS['inv_cos'](ends, 0, 0), [0, 1], atol=3e-5
  )


def test_labels_and_noise_level_are_seen(params, denoiser):
  z = jnp.ones((2, 8, 8, 1))
  logsnr, labels = jnp.array([0.0, 0.0]), jnp.array([1, 2])
  a, b = denoiser.bind(params, labels)(z, logsnr)
  assert float(jnp.abs(a - b).max()) > 1e-3
  labels = jnp.array([1, 1])
  a, b = denoiser.bind(params, labels)(z, jnp.array([0.0, 1.0]))
  assert float(jnp.abs(a - b).max()) > 1e-3


def test_dropout_is_active_with_keys_only_and_each_example_has_its_own():
  args = {**SMALL, 'ch_mult': (1,), 'attn_resolutions': (), 'dropout': 0.5}
  denoiser = build_denoiser(
    {'name': 'unet_iddpm', 'mean_type': 'x', 'args': args}, (8, 8, 1), 1
  )
  rng = np.random.RandomState(0)
  params = jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32) / 4,
    denoiser.param_shapes(),
  )
  keys = jax.random.split(jax.random.key(0), 3)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def x_hat(keys):
    size = 3 if keys is None else len(keys)
    labels = jnp.zeros(size, jnp.int32)
    denoise = denoiser.bind(params, labels, keys)
    return denoise(jnp.ones((size, 8, 8, 1)), jnp.zeros(size))

  still, dropped, other = x_hat(None), x_hat(keys), x_hat(keys[:0:-1])
  np.testing.assert_allclose(still[0], still[1], atol=1e-6)
  assert float(jnp.abs(dropped[0] - dropped[1]).max()) > 1e-3
  # An example's mask depends on its key, not on its place or the batch.
  np.testing.assert_allclose(dropped[1:], other[::-1], atol=1e-5)


def network(**args):
  return UNet(**{'out_ch': 1, **SMALL, **args})


def inputs(batch=2):
  """Returns x, logsnr, y and dropout keys."""
  x = jax.random.normal(jax.random.key(1), (batch, 8, 8, 1))
  keys = jax.random.split(jax.random.key(2), batch)
  return x, jnp.zeros(batch), jnp.zeros(batch, jnp.int32), keys


def test_each_layer_has_its_own_masks(monkeypatch):
  seen = []

  def record(x, rate, keys):
    assert rate == 0.5
    seen.append(keys)
    return x

  monkeypatch.setattr(layers, 'dropout', record)
  *args, keys = inputs()

  @jax.jit
  def of_all_layers(keys):
    network(dropout=0.5).init_with_output(
      jax.random.key(0), *args, train=True, dropout_keys=keys
    )
    return seen

  data = [jax.random.key_data(k) for k in of_all_layers(keys)]
  assert len(np.unique(np.concatenate(data), axis=0)) == 2 * len(data)
  # On the way down, in the middle, on the way up; and between the levels.
  assert len(data) == 2 + 2 + 4 + 2


def test_active_dropout_needs_keys():
  *args, keys = inputs()

  def output(rate, train, keys):
    return jax.eval_shape(
      lambda: network(dropout=rate).init_with_output(
        jax.random.key(0), *args, train=train, dropout_keys=keys
      )[0]
    )

  with pytest.raises(ValueError, match='dropout_keys, one random key per'):
    output(0.5, True, None)
  for case in ((0.5, True, keys), (0.5, False, None), (0.0, True, None)):
    assert output(*case).shape == (2, 8, 8, 1)
