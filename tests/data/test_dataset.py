"""The table of data sets, what all of them offer, and the digits."""

import numpy as np
import pytest
from sklearn import datasets

from diffusion_distillation.data import digits
from diffusion_distillation.data.dataset import (
  ArrayExamples,
  Dataset,
  load_dataset,
)


def test_unknown_names_list_the_known_ones():
  with pytest.raises(ValueError, match='known: digits'):
    load_dataset('mnits', {})
  with pytest.raises(ValueError, match=r'args\.randflip; .* class_conditional'):
    load_dataset('digits', {'randflip': True})


def arrays(count=300, **changes):
  """Returns a Dataset of zeros, with ones at images=INDEX or labels=INDEX."""
  parts = {
    'images': np.zeros((count, 4, 4, 3), np.uint8),
    'labels': np.zeros(count, np.int32),
  }
  for name, index in changes.items():
    parts[name][index] = 1
  examples = ArrayExamples(**parts)
  return Dataset(
    name='arrays',
    image_shape=(4, 4, 3),
    num_classes=2,
    random_flip=False,
    open_train=lambda: examples,
    open_heldout=lambda: ArrayExamples(parts['images'][:0], parts['labels']),
  )


def test_examples_are_opened_once_and_on_first_use():
  opened = []
  dataset = Dataset(
    name='lists',
    image_shape=(2, 2, 1),
    num_classes=1,
    random_flip=False,
    open_train=lambda: opened.append('train') or [1, 2],
    open_heldout=lambda: opened.append('heldout') or [3],
  )
  assert opened == []
  assert dataset.train is dataset.train and opened == ['train']
  assert len(dataset.heldout) == 1 and opened == ['train', 'heldout']


def test_the_sizes_are_described():
  dataset = arrays(58_800)
  assert dataset.describe() == '58,800 training and 0 held-out images'


@pytest.mark.parametrize('index', [0, 123, 299])
@pytest.mark.parametrize('part', ['images', 'labels'])
def test_any_image_or_label_changes_the_fingerprint(part, index):
  before, same, other = arrays(), arrays(), arrays(**{part: index})
  assert before.fingerprint('train') == same.fingerprint('train')
  assert before.fingerprint('train') != other.fingerprint('train')


def test_splits_and_shapes_have_their_own_fingerprints():
  dataset = arrays()
  assert dataset.fingerprint('train') != dataset.fingerprint('heldout')
  images, labels = np.zeros((2, 4, 2, 1), np.uint8), np.zeros(2, np.int32)
  assert (
    ArrayExamples(images, labels).fingerprint()
    != ArrayExamples(images.reshape(2, 2, 4, 1), labels).fingerprint()
  )


def test_digits_are_the_images_of_scikit_learn():
  dataset = digits.load(class_conditional=True)
  assert dataset.describe() == '1,500 training and 297 held-out images'
  every = [*dataset.train, *dataset.heldout]
  images = np.stack([example['image'] for example in every])
  assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
  assert (images.min(), images.max()) == (0, 255)
  # Each of the 1,797 images once, with its label.
  bunch = datasets.load_digits()
  want = sorted(
    (np.round(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
    for image, label in zip(bunch.images, bunch.target, strict=True)
  )
  got = sorted((e['image'].tobytes(), int(e['label'])) for e in every)
  assert got == want


def test_digits_without_classes_have_one():
  dataset = load_dataset('digits', {'class_conditional': False})
  assert dataset.num_classes == 1
  assert {int(e['label']) for e in dataset.train} == {0}
  assert not dataset.random_flip
  conditional = load_dataset('digits', {'class_conditional': True})
  assert dataset.fingerprint('train') != conditional.fingerprint('train')
