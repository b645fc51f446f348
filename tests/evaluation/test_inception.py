"""Against numbers of torch-fidelity; see tests/data/README.md."""

import pathlib

import numpy as np
import pytest

from diffusion_distillation.evaluation import inception
from diffusion_distillation.evaluation.inception import Inception
from tests.make_inception_weights import make_inception_weights

REFERENCE = pathlib.Path(__file__).parents[1] / 'data/inception_reference.npz'


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """Inception with random weights; one image at once on each device."""
  path = tmp_path_factory.mktemp('inception') / 'weights.npz'
  np.savez(path, **make_inception_weights(inception.weight_shapes()))
  return Inception(path, batch_size=1)


@pytest.mark.parametrize('case', ['small', 'large', 'grey'])
def test_activations_agree_with_torch_fidelity_s(network, case):
  reference = np.load(REFERENCE)
  got = network(reference[f'{case}_images'])
  # The numbers are of float64; `rounding` is how far off them torch-fidelity
  # itself is in float32: at most 3.6e-5 of activations of about 1. What is off
  # a logit is off a probability, in proportion.
  tolerances = {
    'features': {'rtol': 0, 'atol': 4 * reference[f'{case}_features_rounding']},
    'spatial': {'rtol': 0, 'atol': 4 * reference[f'{case}_spatial_rounding']},
    'probabilities': {'rtol': 1e-4},
  }
  for name, tolerance in tolerances.items():
    array, want = getattr(got, name), reference[f'{case}_{name}']
    assert array.dtype == np.float32 and array.shape == want.shape
    np.testing.assert_allclose(array, want, err_msg=name, **tolerance)


def test_images_do_not_depend_on_their_batch(network):
  images = np.load(REFERENCE)['small_images']
  many = np.concatenate([images, images, images[:1]])  # two batches of 4
  got, want = network(many), network(images)
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(one, other[[0, 1, 0, 1, 0]], atol=1e-6)


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


def test_resize_has_tensorflow_1_s_places_of_pixels():
  # A ramp tells where each pixel comes from: from i size / 299, no half pixels,
  # and nothing beyond the last one.
  ramp = np.arange(23.0, dtype=np.float32)
  images = np.stack(np.broadcast_arrays(ramp[:, None], 100 * ramp), axis=-1)
  places = np.minimum(np.arange(299) * 23 / 299, 22)
  places = np.tile(places, (299, 1))
  got = inception.resize(images[None])
  np.testing.assert_allclose(got[0, ..., 0].T, places, atol=1e-5)
  np.testing.assert_allclose(got[0, ..., 1] / 100, places, atol=1e-5)
