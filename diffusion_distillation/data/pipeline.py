"""Batches of training examples: shuffled, augmented, resumable at any step."""

import os

import grain

# Threads read one batch each; as many batches wait, which bounds the memory.
_NUM_THREADS = min(16, os.cpu_count() or 1)


class _RandomFlip(grain.transforms.RandomMap):
  """Flips an example's image left to right, half of the time."""

  def random_map(self, element, rng):
    if rng.random() < 0.5:
      return {**element, 'image': element['image'][:, ::-1]}
    return element


def batches(
  dataset, *, batch_size, seed, start=0, process_index=0, process_count=1
):
  """Returns an endless iterator of batches, from batch number `start` on.

  The order is a function of the seed alone, a new permutation each epoch; so
  are the flips, of the seed and the example's place in that order. The iterator
  that starts at n continues the one that has given n batches. Each process gets
  a contiguous part of every batch; put together, in order, the parts are what
  one process would get.

  Args:
    dataset: a Dataset.
    batch_size: examples per batch, over all processes.
    seed: int >= 0.
    start: number of batches already taken.
    process_index: which process this is, from 0 on.
    process_count: of all processes.

  Yields:
    {'image': (B, H, W, C) uint8, 'label': (B,) int32}, B of this process.

  Raises:
    ValueError: the processes cannot share a batch alike, or there is no data.
  """
  if batch_size % process_count:
    raise ValueError(
      f'a batch of {batch_size} cannot be split over {process_count} processes'
    )
  examples = grain.MapDataset.source(dataset.train).seed(seed)
  # As good as endless; repeat(None) is too long to be cut into parts.
  examples = examples.shuffle().repeat(2**62 // len(dataset.train))
  if dataset.random_flip:
    examples = examples.random_map(_RandomFlip())
  parts = examples.batch(batch_size // process_count)
  iterator = iter(
    parts[process_index::process_count].to_iter_dataset(
      grain.ReadOptions(_NUM_THREADS, _NUM_THREADS)
    )
  )
  iterator.set_state({'next_index': start})
  return iterator
