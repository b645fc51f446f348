import dataclasses
import itertools

import numpy as np
import pytest

from diffusion_distillation.data import digits
from diffusion_distillation.data.dataset import Dataset, load_dataset
from diffusion_distillation.data.pipeline import batches


class Numbers:
  """Ten examples that say who they are, left and right."""

  def __len__(self):
    return 10

  def __getitem__(self, index):
    image = np.full((2, 2, 1), 2 * index, np.uint8)
    image[:, 1] += 1
    return {'image': image, 'label': np.int32(index)}


NUMBERS = Dataset('numbers', (2, 2, 1), 10, False, Numbers, Numbers)


def take(count, dataset=NUMBERS, **kwargs):
  kwargs = {'batch_size': 5, 'seed': 1, **kwargs}
  return list(itertools.islice(batches(dataset, **kwargs), count))


def labels(taken):
  return [batch['label'].tolist() for batch in taken]


def test_digits_are_the_images_of_scikit_learn():
  from sklearn import datasets

  dataset = digits.load(class_conditional=True)
  assert (len(dataset.train), len(dataset.heldout)) == (1500, 297)
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


def test_an_epoch_has_each_example_once_and_the_next_another_order():
  epochs = np.array(labels(take(6))).reshape(3, 10)
  np.testing.assert_array_equal(np.sort(epochs), [range(10)] * 3)
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_the_seed_s():
  assert labels(take(4)) == labels(take(4))
  assert labels(take(4)) != labels(take(4, seed=2))


@pytest.mark.parametrize('start', [1, 3, 5])
def test_it_goes_on_from_any_batch(start):
  flipped = dataclasses.replace(NUMBERS, random_flip=True)
  kwargs = {'dataset': flipped, 'batch_size': 4}
  whole, rest = take(8, **kwargs), take(8 - start, start=start, **kwargs)
  for want, got in zip(whole[start:], rest, strict=True):
    np.testing.assert_array_equal(want['image'], got['image'])
    np.testing.assert_array_equal(want['label'], got['label'])


@pytest.mark.parametrize('count', [1, 2, 3, 6])
def test_the_parts_of_all_processes_are_what_one_gets(count):
  flipped = dataclasses.replace(NUMBERS, random_flip=True)
  kwargs = {'dataset': flipped, 'batch_size': 6, 'start': 2}
  parts = [
    take(5, process_index=index, process_count=count, **kwargs)
    for index in range(count)
  ]
  for whole, *blocks in zip(take(5, **kwargs), *parts, strict=True):
    for key, value in whole.items():
      np.testing.assert_array_equal(
        value, np.concatenate([block[key] for block in blocks])
      )


def test_processes_must_share_alike():
  with pytest.raises(ValueError, match='6 cannot be split over 4 processes'):
    batches(NUMBERS, batch_size=6, seed=0, process_count=4)


def test_data_are_opened_once_when_they_are_used():
  opened = []
  dataset = dataclasses.replace(
    NUMBERS,
    open_train=lambda: opened.append('train') or Numbers(),
    open_heldout=lambda: opened.append('heldout') or Numbers(),
  )
  assert dataset.image_shape == (2, 2, 1) and opened == []
  assert dataset.train is dataset.train and opened == ['train']
  assert len(dataset.heldout) == 10 and opened == ['train', 'heldout']


def test_batches_are_uint8_images_and_int32_labels():
  (batch,) = take(1)
  assert batch['image'].shape == (5, 2, 2, 1)
  assert batch['image'].dtype == np.uint8 and batch['label'].dtype == np.int32


def test_flips_are_left_to_right_half_of_the_time_and_only_where_asked():
  def flipped(dataset):
    taken = take(200, dataset)
    images = np.concatenate([batch['image'] for batch in taken])
    index = np.concatenate([batch['label'] for batch in taken])
    left, right = images[:, 0, 0, 0], images[:, 0, 1, 0]
    assert np.all((left == 2 * index) | (right == 2 * index))
    return np.mean(right == 2 * index)

  assert flipped(NUMBERS) == 0
  # 1,000 fair coins: 5 standard deviations.
  share = flipped(dataclasses.replace(NUMBERS, random_flip=True))
  assert abs(share - 0.5) < 0.08


def test_unknown_names_list_the_known_ones():
  with pytest.raises(ValueError, match='known: digits'):
    load_dataset('mnist', {})
  with pytest.raises(ValueError, match='known: class_conditional'):
    load_dataset('digits', {'randflip': True})
