"""The classifier that is trained on the data set that it measures."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_distillation.data import digits
from diffusion_distillation.evaluation import convnet
from diffusion_distillation.evaluation.convnet import TrainedClassifier
from diffusion_distillation.evaluation.evaluator import open_network
from diffusion_distillation.runtime.errors import UserError

DIGITS = digits.load(class_conditional=True)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def classifier(cache):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(convnet, '_NUM_UPDATES', 150)
    return TrainedClassifier(DIGITS, cache)


def test_it_learns_the_classes(classifier):
  assert classifier.accuracy > 0.9
  assert f'({classifier.accuracy:.1%} of the held-' in classifier.description
  images = np.stack([DIGITS.heldout[i]['image'] for i in range(5)])
  features, spatial, probabilities = classifier(images)
  assert spatial is None and features.shape == (5, classifier.num_features)
  assert features.min() == 0 and features.max() > 0
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_it_is_trained_once(classifier, cache, capsys, monkeypatch):
  monkeypatch.setattr(convnet, '_NUM_UPDATES', 1)
  again = TrainedClassifier(DIGITS, cache)
  assert again.checksum == classifier.checksum
  assert again.accuracy == classifier.accuracy
  (path,) = cache.iterdir()
  path.write_bytes(path.read_bytes()[:-100])
  other = TrainedClassifier(DIGITS, cache)
  assert other.checksum != classifier.checksum
  assert 'training it again' in capsys.readouterr().err
  assert TrainedClassifier(DIGITS, cache).checksum == other.checksum


def test_it_needs_labels():
  for name, message in (
    ('lsun_church128', "no argument 'class_conditional'|class_conditional"),
    ('digits', None),
  ):
    data = ConfigDict({'name': name, 'args': {}})
    settings = {'features': 'classifier'}
    if message is None:
      assert open_network(data, settings).name == 'digits-mlp-relu64'
    else:
      with pytest.raises(UserError, match=message):
        open_network(data, settings)
