import numpy as np
import pytest

from diffusion_distillation.data import digits
from diffusion_distillation.evaluation.classifier import Classifier


def test_the_classifier_knows_held_out_digits():
  examples = list(digits.load(class_conditional=True).heldout)
  images = np.stack([example['image'] for example in examples])
  labels = [example['label'] for example in examples]
  classifier = Classifier('digits')
  found, spatial, probabilities = classifier(images)
  assert spatial is None
  assert found.shape == (297, 64) == (297, classifier.num_features)
  np.testing.assert_allclose(probabilities.sum(1), 1)
  assert np.mean(probabilities.argmax(1) == labels) > 0.97


def test_unknown_data_sets_get_the_list_of_known_ones():
  with pytest.raises(ValueError, match="'cifar10'; known: digits"):
    Classifier('cifar10')
