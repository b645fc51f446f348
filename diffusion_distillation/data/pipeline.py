"""Batches of training examples: shuffled, augmented, resumable at any step."""

import grain


class _RandomFlip(grain.transforms.RandomMap):
  """Flips an example's image left to right, half of the time."""

  def random_map(self, element, rng):
    if rng.random() < 0.5:
      return {**element, 'image': element['image'][:, ::-1]}
    return element


def batches(dataset, *, batch_size, seed, start=0):
  """Returns an endless iterator of batches, from batch number `start` on.

  The order is a function of the seed alone, a new permutation each epoch; so
  are the flips, of the seed and the example's place in that order. The iterator
  that starts at n continues the one that has given n batches.

  Args:
    dataset: a Dataset.
    batch_size: examples per batch.
    seed: int >= 0.
    start: number of batches already taken.

  Yields:
    {'image': (B, H, W, C) uint8, 'label': (B,) int32}.
  """
  examples = grain.MapDataset.source(dataset.train).seed(seed)
  examples = examples.shuffle().repeat(None)
  if dataset.random_flip:
    examples = examples.random_map(_RandomFlip())
  iterator = iter(examples.batch(batch_size).to_iter_dataset())
  iterator.set_state({'next_index': start})
  return iterator
