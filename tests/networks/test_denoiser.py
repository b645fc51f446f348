"""The table of networks, and the Denoiser of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import parameterization
from diffusion_distillation.networks.denoiser import NETWORKS, build_denoiser

SHAPE = (4, 4, 1)
ARGS = {
  'unet_iddpm': {
    'ch': 4,
    'emb_ch': 4,
    'ch_mult': [1],  # as JSON has tuples
    'num_res_blocks': 1,
    'attn_resolutions': [],
  },
  'mlp': {'width': 8},
}


def build(name, mean_type='v', num_classes=3, **args):
  model = {'name': name, 'mean_type': mean_type, 'args': {**ARGS[name], **args}}
  return build_denoiser(model, SHAPE, num_classes)


def random_params(denoiser):
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32),
    denoiser.param_shapes(),
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_sees_its_inputs(name):
  denoiser = build(name)
  params = random_params(denoiser)

  @jax.jit
  def predict(z, logsnr, label):
    return denoiser.bind(params, {'label': label})(z, logsnr)

  z, logsnr = jnp.ones((2, *SHAPE)), jnp.zeros(2)
  label = jnp.array([1, 1])
  same = predict(z, logsnr, label)
  assert same.shape == z.shape and same.dtype == jnp.float32
  np.testing.assert_allclose(same[0], same[1], atol=1e-6)
  for other in (
    predict(z.at[1].add(0.1), logsnr, label),
    predict(z, logsnr.at[1].add(1), label),
    predict(z, logsnr, label.at[1].set(2)),
    predict(z, logsnr, label.at[1].set(-1)),
  ):
    np.testing.assert_allclose(other[0], same[0], atol=1e-6)
    assert float(jnp.abs(other[1] - same[1]).max()) > 1e-3


@pytest.mark.parametrize('name', NETWORKS)
def test_free_arguments_do_not_change_the_parameters(name):
  free = {'dropout': 0.5, 'dtype': 'bfloat16', 'remat': True, 'norm': 'fused'}
  free = {key: free[key] for key in NETWORKS[name].FREE_ARGS}
  with jax.numpy_dtype_promotion('standard'):  # flax's GroupNorm mixes types
    assert build(name, **free).param_shapes() == build(name).param_shapes()


@pytest.mark.parametrize('name', NETWORKS)
def test_no_condition_is_the_label_of_no_class(name):
  denoiser = build(name)
  params = random_params(denoiser)
  z, logsnr = jnp.ones((2, *SHAPE)), jnp.zeros(2)
  none = denoiser.bind(params, None)(z, logsnr)
  minus_one = denoiser.bind(params, {'label': jnp.array([-1, -1])})(z, logsnr)
  np.testing.assert_array_equal(none, minus_one)


@pytest.mark.parametrize('name', NETWORKS)
def test_dropout_belongs_to_the_example(name):
  denoiser = build(name, dropout=0.5)
  params = random_params(denoiser)
  keys = jax.random.split(jax.random.key(0), 2)
  z, logsnr = jnp.ones((2, *SHAPE)), jnp.zeros(2)
  x_hat = denoiser.bind(params, None, keys)(z, logsnr)
  assert float(jnp.abs(x_hat[0] - x_hat[1]).max()) > 1e-3
  alone = denoiser.bind(params, None, keys[1:])(z[1:], logsnr[1:])
  np.testing.assert_allclose(x_hat[1:], alone, rtol=1e-4, atol=1e-4)


def test_a_head_scales_the_input_and_sets_the_channels(monkeypatch):
  # A head of two channels that sees z / alpha, and returns it.
  def to_x_hat(output, z, alpha, sigma):
    return output[..., :1] * 0 + z / alpha

  head = parameterization.Head(
    to_x_hat, lambda z, alpha, sigma: z / alpha, output_channels=2
  )
  monkeypatch.setitem(parameterization.HEADS, 'exploding', head)
  denoiser = build('mlp', 'exploding', num_classes=1)
  assert denoiser.network.out_ch == 2
  seen = []
  monkeypatch.setattr(
    type(denoiser.network),
    'apply',
    lambda self, variables, z, *args, **kwargs: seen.append(z) or z,
  )
  z, logsnr = jnp.ones((1, *SHAPE)), jnp.full(1, -2.0)
  alpha = np.sqrt(1 / (1 + np.exp(2.0)))
  x_hat = denoiser.bind({}, None)(z, logsnr)
  np.testing.assert_allclose(seen[0], 1 / alpha, rtol=1e-6)
  np.testing.assert_allclose(x_hat, 1 / alpha, rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'args', 'message'),
  [
    ('mlp', {'heads': 1}, 'unknown key model.args.heads; known: width'),
    ('mlp', {'width': 'a'}, "model.args.width must be int, got 'a'"),
    ('mlp', {'width': 0}, 'model.args.width must be 1 to 65536, got 0'),
    ('mlp', {'dtype': 'int8'}, 'unknown dtype'),
    ('mlp', {'dropout': 1.0}, 'at least 0 and below 1'),
    ('unet_iddpm', {'dropout': float('nan')}, 'at least 0 and below 1'),
    ('unet_iddpm', {'num_res_blocks': 0}, 'num_res_blocks must be 1 to'),
    ('unet_iddpm', {'out_ch': 3}, 'unknown key model.args.out_ch; known: ch,'),
    ('unet_iddpm', {'mean_type': 'w'}, 'unknown mean_type'),
  ],
)
def test_an_invalid_network_is_refused(name, args, message):
  with pytest.raises(ValueError, match=message):
    build(name, **args)
  with pytest.raises(ValueError, match=r'unknown network .*unet_iddpm, mlp'):
    build_denoiser({'name': 'dit', 'mean_type': 'v', 'args': {}}, SHAPE, 1)
