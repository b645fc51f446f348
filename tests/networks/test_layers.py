import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.networks import layers

KEYS = jax.random.split(jax.random.key(0), 4)
ONES = jnp.ones((4, 32, 32, 8))


@pytest.mark.parametrize('rate', [0.1, 0.5])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate, dtype):
  got = layers.dropout(ONES.astype(dtype), rate, KEYS)
  assert got.dtype == dtype
  got = np.asarray(got, np.float64)
  rate = round(rate * 2**16) / 2**16
  scaled = np.float64(jnp.asarray(1 / (1 - rate), dtype))
  assert set(np.unique(got)) == {0, scaled}
  # The tolerance is five standard deviations of the binomial count.
  size = ONES[0].size
  deviation = np.sqrt(rate * (1 - rate) / size)
  dropped = (got == 0).mean((1, 2, 3))
  assert np.all(np.abs(dropped - rate) < 5 * deviation)


def test_each_example_has_its_own_mask_that_depends_on_its_key():
  got = np.asarray(layers.dropout(ONES, 0.5, KEYS)).reshape(4, -1)
  assert len(np.unique(got, axis=0)) == 4
  # So are the values of a mask, of which two come from one random word.
  assert abs((got[0, ::2] == got[0, 1::2]).mean() - 0.5) < 0.05
  # The masks are independent: two fair coins agree half of the time.
  agree = (got[0] == got[1]).mean()
  assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(got.shape[1])
  np.testing.assert_array_equal(
    layers.dropout(ONES[:2], 0.5, KEYS[2:]).reshape(2, -1), got[2:]
  )


def test_dropout_at_almost_all_values_is_finite():
  assert np.all(np.isfinite(layers.dropout(ONES, 1 - 2**-20, KEYS)))


def test_dropout_without_a_rate_or_keys_is_the_identity():
  x = jax.random.normal(KEYS[0], ONES.shape)
  np.testing.assert_array_equal(layers.dropout(x, 0.0, KEYS), x)
  assert layers.dropout(x, 0.5, None) is x


def test_each_layer_has_its_own_keys():
  names = [f'down_{i}.block_{j}' for i in range(5) for j in range(5)]
  keys = [jax.random.key_data(layers.layer_keys(KEYS, n)) for n in names]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 4 * len(names)
  assert layers.layer_keys(None, 'mid.block_1') is None


def test_the_embedding_of_the_noise_level_has_float32_accuracy():
  # Angles of up to 1000: in bfloat16 they would be off by whole turns.
  position = np.linspace(0, 1, 97, dtype=np.float32)
  got = layers.sinusoidal_embedding(jnp.asarray(position), 16)
  angles = (
    np.float64(position)[:, None] * 1000 * 10.0 ** (-4 * np.arange(8) / 7)
  )
  want = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  # The angle itself is rounded, by 1000 eps, and so is its frequency.
  np.testing.assert_allclose(got, want, atol=4 * 1000 * 2.0**-24)


def device(platform, capability=None):
  return types.SimpleNamespace(
    platform=platform,
    **({} if capability is None else {'compute_capability': capability}),
  )


@pytest.mark.parametrize(
  ('platform', 'capability', 'dtype', 'pixels', 'head_dim', 'want'),
  [
    ('gpu', '9.0', 'bfloat16', 64, 256, 'cudnn'),
    ('cuda', '9.0', 'float16', 256, 64, 'cudnn'),
    ('gpu', '9.0', 'bfloat16', 1024, 264, 'xla'),
    ('gpu', '9.0', 'bfloat16', 256, 60, 'xla'),
    ('gpu', '9.0', 'bfloat16', 16, 64, 'xla'),
    ('gpu', '9.0', 'float32', 256, 64, 'xla'),
    ('gpu', '8.0', 'bfloat16', 256, 128, 'cudnn'),
    ('gpu', '8.9', 'bfloat16', 256, 136, 'xla'),
    ('gpu', '7.5', 'float16', 256, 64, 'xla'),
    ('gpu', '10.0', 'bfloat16', 256, 128, 'cudnn'),
    ('gpu', '12.0', 'bfloat16', 256, 256, 'xla'),
    ('gpu', 'gfx942', 'bfloat16', 256, 64, 'xla'),
    ('gpu', None, 'bfloat16', 256, 64, 'xla'),
    ('cpu', None, 'bfloat16', 256, 64, 'xla'),
    ('tpu', None, 'bfloat16', 256, 64, 'xla'),
  ],
)
def test_cudnn_s_attention_is_used_where_it_can_be(
  platform, capability, dtype, pixels, head_dim, want
):
  got = layers.attention_implementation(
    device(platform, capability), jnp.dtype(dtype), pixels, head_dim
  )
  assert got == want


def test_attention_uses_what_the_devices_support(monkeypatch):
  asked = []

  def attention(q, k, v, implementation):
    asked.append((implementation, q.shape, q.dtype))
    return v

  monkeypatch.setattr(jax.nn, 'dot_product_attention', attention)
  block = layers.AttnBlock(num_heads=1, dtype='bfloat16')
  x = jax.ShapeDtypeStruct((2, 8, 8, 32), jnp.bfloat16)
  with jax.numpy_dtype_promotion('standard'):  # flax's GroupNorm mixes types
    jax.eval_shape(block.init, jax.random.key(0), x)
    monkeypatch.setattr(jax, 'devices', lambda: [device('gpu', '9.0')])
    jax.eval_shape(block.init, jax.random.key(0), x)
  shape = (2, 64, 1, 32)
  assert asked == [('xla', shape, jnp.bfloat16), ('cudnn', shape, jnp.bfloat16)]
