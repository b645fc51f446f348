"""The classifier that is trained on the data set that it measures."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from diffusion_distillation.data import digits
from diffusion_distillation.data.dataset import ArrayExamples
from diffusion_distillation.evaluation import convnet, evaluator
from diffusion_distillation.evaluation.convnet import TrainedClassifier
from diffusion_distillation.evaluation.evaluator import open_network
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

DIGITS = digits.load(class_conditional=True)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def classifier(cache):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(convnet, '_NUM_UPDATES', 150)
    made = TrainedClassifier(DIGITS, cache)
    assert made.checksum  # which trains it
    return made


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
  # Arrays of another network are not usable either.
  files.write_npz(path, {'params/Dense_0/bias': np.zeros(3)})
  assert TrainedClassifier(DIGITS, cache).checksum == other.checksum
  assert 'it holds another network; training' in capsys.readouterr().err


def test_a_classifier_that_cannot_be_kept_is_used(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(convnet, '_NUM_UPDATES', 1)
  (tmp_path / 'file').touch()
  assert TrainedClassifier(DIGITS, tmp_path / 'file').checksum
  assert 'the classifier is not kept: ' in capsys.readouterr().err


def test_the_cache_belongs_to_data_and_recipe(tmp_path):
  first = convnet._cache_name(DIGITS)
  flipped = dataclasses.replace(DIGITS, random_flip=True)
  others = dataclasses.replace(DIGITS, open_train=DIGITS.open_heldout)
  assert len({first, *map(convnet._cache_name, (flipped, others))}) == 3


def test_the_accuracy_is_that_of_held_out_images(classifier):
  wrong = ArrayExamples(
    np.stack([example['image'] for example in DIGITS.heldout]),
    np.full(len(DIGITS.heldout), 99, np.int32),
  )
  other = dataclasses.replace(DIGITS, open_heldout=lambda: wrong)
  fooled = TrainedClassifier(other)
  fooled.__dict__['_variables'] = classifier._variables
  assert fooled.accuracy == 0


def test_large_images_are_halved_to_8(classifier):
  shapes = jax.eval_shape(
    convnet.ConvNet(5).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8),
  )
  assert shapes['params']['Dense_0']['kernel'].shape == (8 * 8 * 128, 128)


def test_it_needs_labels(tmp_path, monkeypatch):
  settings = {'features': 'classifier'}
  digits_ = ConfigDict({'name': 'digits', 'args': {}})
  assert open_network(digits_, settings).name == 'digits-mlp-relu64'
  Image.new('L', (8, 8)).save(tmp_path / 'a.png')
  folder = {'name': 'folder', 'args': {'path': str(tmp_path)}}
  for data in ({'name': 'lsun_church128', 'args': {}}, folder):
    with pytest.raises(UserError, match='needs labels, which the data set'):
      open_network(ConfigDict(data), settings)
  one = dataclasses.replace(DIGITS, num_classes=1)
  monkeypatch.setattr(evaluator, 'load_dataset', lambda *args: one)
  with pytest.raises(UserError, match='two or more classes, folder has 1'):
    open_network(ConfigDict(folder), settings)
