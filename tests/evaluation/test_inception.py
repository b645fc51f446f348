"""Compares with torch-fidelity and pytorch-fid; see tests/data/README.md."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.evaluation import inception
from diffusion_distillation.evaluation.inception import Inception
from tests.make_inception_weights import make_inception_weights

DATA = pathlib.Path(__file__).parents[1] / 'data'


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """Inception with random weights; one image at once on each device."""
  path = tmp_path_factory.mktemp('inception') / 'weights.npz'
  np.savez(path, **make_inception_weights(inception.weight_shapes()))
  return Inception(path, batch_size=1)


@pytest.mark.parametrize('case', ['small', 'large', 'grey'])
def test_activations_agree_with_torch_fidelity_s(network, case):
  reference = np.load(DATA / 'inception_reference.npz')
  images = reference[f'{case}_images']
  # Five small images are two batches, of which one is padded.
  order = np.arange(5 if case == 'small' else 1) % len(images)
  got = network(images[order])
  # The reference is in float64; `rounding` is the error of torch-fidelity in
  # float32: at most 3.6e-5 of activations of about 1. An error of a logit is a
  # relative error of a probability.
  tolerances = {
    'features': {'rtol': 0, 'atol': 4 * reference[f'{case}_features_rounding']},
    'spatial': {'rtol': 0, 'atol': 4 * reference[f'{case}_spatial_rounding']},
    'probabilities': {'rtol': 1e-4},
  }
  for name, tolerance in tolerances.items():
    array, want = getattr(got, name), reference[f'{case}_{name}'][order]
    assert array.dtype == np.float32 and array.shape == want.shape
    np.testing.assert_allclose(array, want, err_msg=name, **tolerance)


@pytest.mark.parametrize(
  'images',
  [
    np.zeros((2, 8, 8, 3), np.float32),
    np.zeros((8, 8, 3), np.uint8),
    np.zeros((2, 8, 8, 4), np.uint8),
    np.zeros((0, 8, 8, 3), np.uint8),
  ],
  ids=['float', 'no batch', 'alpha', 'none'],
)
def test_other_images_are_refused(network, images):
  with pytest.raises(ValueError, match='Inception'):
    network(images)


class Input:
  """A network that returns a part of its input."""

  def apply(self, variables, x):
    return x[:, ::13, ::13, 0], x[..., :1], jnp.zeros((len(x), 2))


@pytest.fixture
def open_input(monkeypatch):
  """Returns a function that opens an Inception of the network `Input`."""
  monkeypatch.setattr(inception, 'weight_shapes', dict)
  monkeypatch.setattr(inception, 'read_weights', lambda *args: ({}, ''))
  monkeypatch.setattr(inception, '_fold', lambda weights: {})
  monkeypatch.setattr(inception, 'InceptionNetwork', Input)
  return lambda resize: Inception('weights.npz', resize, batch_size=1)


@pytest.mark.parametrize('size', ['32x32', '2x3', '64x300', '500x7'])
def test_the_rule_of_pytorch_is_pytorch_fid_s(open_input, size):
  reference = np.load(DATA / 'interpolate_reference.npz')
  images, want = reference[f'image_{size}'], reference[f'input_{size}']
  got = inception.prepare_pytorch(jnp.float32(images))
  kept = reference['kept']
  # Rounding of grey levels up to 255, in two orders of operations.
  np.testing.assert_allclose(got[:, kept][:, :, kept], want, atol=3e-6)
  # The network gets this input, and not that of the other rule.
  if size == '32x32':
    found = open_input('pytorch')(images).features
    np.testing.assert_allclose(found, want[:, :23, :23, 0], atol=3e-6)
    other = open_input('tf1')(images).features
    assert np.abs(other - want[:, :23, :23, 0]).max() > 0.1


def test_resize_has_tensorflow_1_s_places_of_pixels():
  # A ramp shows where each pixel comes from: from i size / 299, without half
  # pixels, and from nothing beyond the last one.
  ramp = np.arange(23.0, dtype=np.float32)
  images = np.stack(np.broadcast_arrays(ramp[:, None], 10 * ramp), axis=-1)
  places = np.minimum(np.arange(299) * 23 / 299, 22)
  places = np.tile(places, (299, 1))
  got = inception.prepare_tf1(images[None]) * 128 + 128
  np.testing.assert_allclose(got[0, ..., 0].T, places, atol=1e-4)
  np.testing.assert_allclose(got[0, ..., 1] / 10, places, atol=1e-4)


def test_an_unknown_rule_is_refused_before_the_weights_are_read():
  with pytest.raises(ValueError, match="'area'; known: tf1, pytorch"):
    Inception('/nowhere', resize='area')
