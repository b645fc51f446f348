"""Batches: order, flips, resuming, and the parts of several processes."""

import dataclasses
import itertools

import numpy as np
import pytest

from diffusion_distillation.data.batches import batches
from diffusion_distillation.data.dataset import Dataset


class Numbers:
  """Examples with pixels 2 n at the left and 2 n + 1 at the right."""

  def __init__(self, count=10):
    self._count = count

  def __len__(self):
    return self._count

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


def test_an_epoch_has_each_example_once_and_the_next_another_order():
  epochs = np.array(labels(take(6))).reshape(3, 10)
  np.testing.assert_array_equal(np.sort(epochs), [range(10)] * 3)
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed_alone():
  assert labels(take(4)) == labels(take(4))
  assert labels(take(4)) != labels(take(4, seed=2))


@pytest.mark.parametrize('start', [1, 3, 5])
def test_batches_resume_from_any_batch(start):
  flipped = dataclasses.replace(NUMBERS, random_flip=True)
  kwargs = {'dataset': flipped, 'batch_size': 4}
  whole, rest = take(8, **kwargs), take(8 - start, start=start, **kwargs)
  for want, got in zip(whole[start:], rest, strict=True):
    np.testing.assert_array_equal(want['image'], got['image'])
    np.testing.assert_array_equal(want['label'], got['label'])


@pytest.mark.parametrize('count', [1, 2, 3, 6])
def test_the_parts_of_all_processes_make_the_batch_of_one(count):
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


def test_processes_must_get_equal_parts():
  with pytest.raises(ValueError, match='6 cannot be split over 4 processes'):
    batches(NUMBERS, batch_size=6, seed=0, process_count=4)


def test_batches_are_uint8_images_and_int32_labels():
  (batch,) = take(1)
  assert batch['image'].shape == (5, 2, 2, 1)
  assert batch['image'].dtype == np.uint8 and batch['label'].dtype == np.int32


def test_flips_are_left_to_right_half_of_the_time_and_only_on_request():
  def flipped(dataset):
    (batch,) = take(1, dataset, batch_size=1000)
    left, right = batch['image'][:, 0, 0, 0], batch['image'][:, 0, 1, 0]
    index = batch['label']
    assert np.all((left == 2 * index) | (right == 2 * index))
    return np.mean(right == 2 * index)

  many = dataclasses.replace(NUMBERS, open_train=lambda: Numbers(100))
  assert flipped(many) == 0
  # The tolerance is 5 standard deviations of 1,000 fair coins.
  share = flipped(dataclasses.replace(many, random_flip=True))
  assert abs(share - 0.5) < 0.08
