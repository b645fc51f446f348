"""A row's images on disk while they are drawn, so that a kill costs a batch."""

import json
import shutil
import time

import numpy as np

from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import DamagedError, UserError


class Shards:
  """The images of seeds 0, 1, ... by one Row, a file for each batch.

  A file says which row and seeds its images are of; one that says otherwise, or
  is damaged, counts as absent.
  """

  def __init__(self, folder, row, num_samples, batch_size):
    """Takes what identifies the images.

    Args:
      folder: for the files, which is removed in the end.
      row: a Row.
      num_samples: how many images.
      batch_size: images of a file.
    """
    self._folder, self._row = folder, row
    seeds = np.arange(num_samples)
    self.batches = [
      seeds[first : first + batch_size]
      for first in range(0, num_samples, batch_size)
    ]

  def draw(self, generator, load, progress):
    """Draws what is absent.

    Args:
      generator: a Generator of the row's network.
      load: returns the row's Checkpoint, and is called if anything is absent.
      progress: a Progress, in images.
    """
    absent = [seeds for seeds in self.batches if self._read(seeds) is None]
    if not absent:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    draw = generator.drawer(
      load().weights, self._row.method, len(self.batches[0])
    )
    draw(absent[0], 1)  # compiles it
    done = sum(map(len, self.batches)) - sum(map(len, absent))
    for seeds in absent:
      started = time.monotonic()
      images = draw(seeds, self._row.num_steps)
      shard = {
        'images': images,
        'seconds': time.monotonic() - started,
        'identity': self._identity(seeds),
      }
      files.write_npz(self._path(seeds), shard)
      done += len(seeds)
      progress.show(done)

  def images(self):
    """Yields the images of each batch, uint8 (B, H, W, C), once drawn."""
    for seeds in self.batches:
      yield self._drawn(seeds)['images']

  def seconds(self):
    """Returns how long drawing took, without compilation."""
    return sum(float(self._drawn(seeds)['seconds']) for seeds in self.batches)

  def remove(self):
    """Removes the files."""
    shutil.rmtree(self._folder)

  def _path(self, seeds):
    return self._folder / f'{seeds[0]:08}.npz'

  def _identity(self, seeds):
    first, last = int(seeds[0]), int(seeds[-1])
    return json.dumps({**self._row.identity, 'seeds': [first, last]})

  def _drawn(self, seeds):
    """Returns the arrays of a file.

    Raises:
      UserError: it was there, and is no more.
    """
    shard = self._read(seeds)
    if shard is None:
      raise UserError(
        f'{self._path(seeds)} is damaged or gone; the same command draws it '
        'anew'
      )
    return shard

  def _read(self, seeds):
    """Returns the arrays of a file, or None where it is absent."""
    path = self._path(seeds)
    if not path.exists():
      return None
    try:
      with files.reading(path), np.load(path, allow_pickle=False) as file:
        shard = dict(file)
    except DamagedError:
      return None
    same = str(shard.get('identity')) == self._identity(seeds)
    return shard if same else None
