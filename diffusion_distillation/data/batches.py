"""Batches of training examples: shuffled, flipped, resumable at any batch."""

import os

import grain

# Each thread reads one batch, and as many finished batches are kept waiting.
# Memory grows with the number of threads, so it is limited.
_NUM_THREADS = min(16, os.cpu_count() or 1)


class _RandomFlip(grain.transforms.RandomMap):
  """Flips the image of every second example, at random, left to right."""

  def random_map(self, element, rng):
    if rng.random() < 0.5:
      return {**element, 'image': element['image'][:, ::-1]}
    return element


def batches(
  dataset, *, batch_size, seed, start=0, process_index=0, process_count=1
):
  """Returns an endless iterator over batches of training examples.

  Each epoch has a new order, which depends on the seed alone; a flip depends on
  the seed and on the example's position in that order. An iterator with
  `start=n` therefore continues one that has given n batches. Each process gets
  a contiguous part of every batch; concatenated in the order of the processes,
  the parts are the batch that a single process would get.

  Args:
    dataset: a Dataset.
    batch_size: number of examples per batch, over all processes.
    seed: int >= 0.
    start: number of batches to skip.
    process_index: index of this process, from 0.
    process_count: number of processes.

  Yields:
    {'image': (B, H, W, C) uint8, 'label': (B,) int32}, where B is this
    process's part of the batch.

  Raises:
    ValueError: batch_size is not a multiple of process_count.
    UserError: the data are missing, or (from the iterator) cannot be read.
  """
  if batch_size % process_count:
    raise ValueError(
      f'a batch of {batch_size} cannot be split over {process_count} processes'
    )
  examples = grain.MapDataset.source(dataset.train).seed(seed)
  # A large number is endless in practice; Grain cannot slice repeat(None).
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
