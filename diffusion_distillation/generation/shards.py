"""Keeps images on disk while they are drawn; a kill loses at most one batch."""

import io
import json
import shutil
import statistics
import time

import numpy as np

from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError


class Shards:
  """The images of consecutive seeds, with one file per batch.

  Each file says what its images are. A file that is damaged, or that describes
  other images, is drawn again.
  """

  def __init__(self, folder, identity, num_samples, batch_size, first_seed=0):
    """Describes the images; nothing is read or drawn yet.

    Args:
      folder: path of the folder for the files.
      identity: JSON values that determine the images: network, sampler, steps.
      num_samples: number of images.
      batch_size: images per file.
      first_seed: seed of the first image.
    """
    self._folder, self._identity_of_all = folder, identity
    seeds = np.arange(first_seed, first_seed + num_samples)
    self.batches = [
      seeds[first : first + batch_size]
      for first in range(0, num_samples, batch_size)
    ]

  def draw(self, open_drawer, num_steps, progress):
    """Draws the batches that have no file yet.

    Args:
      open_drawer: () -> function (seeds (B,), num_steps) -> uint8 images
        (B, H, W, C); it is called if any batch is missing.
      num_steps: number of sampling steps.
      progress: a Progress that counts images.

    Raises:
      UserError: a file cannot be read or written.
    """
    missing = [seeds for seeds in self.batches if self._read(seeds) is None]
    if not missing:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    draw = open_drawer()
    draw(missing[0], 1)  # compiles, so that no time includes compilation
    done = sum(map(len, self.batches)) - sum(map(len, missing))
    for seeds in missing:
      started = time.monotonic()
      images = draw(seeds, num_steps)
      shard = {
        'images': images,
        'seconds': time.monotonic() - started,
        'identity': self._identity(seeds),
      }
      files.write_npz(self._path(seeds), shard)
      done += len(seeds)
      progress.show(done)

  def images(self):
    """Yields the images of each batch, uint8 (B, H, W, C).

    Raises:
      UserError: a batch has not been drawn yet, or its file is gone.
    """
    for seeds in self.batches:
      yield self._drawn(seeds)['images']

  def images_per_second(self):
    """Returns the speed of drawing, by the median time of a batch.

    Compilation does not count. The last batch takes as long as the others, even
    if it has fewer images, since it is padded to their size.
    """
    seconds = (float(self._drawn(seeds)['seconds']) for seeds in self.batches)
    return len(self.batches[0]) / statistics.median(seconds)

  def remove(self):
    """Removes the folder."""
    shutil.rmtree(self._folder)

  def _path(self, seeds):
    return self._folder / f'{seeds[0]:08}.npz'

  def _identity(self, seeds):
    first, last = int(seeds[0]), int(seeds[-1])
    return json.dumps({**self._identity_of_all, 'seeds': [first, last]})

  def _drawn(self, seeds):
    """Returns the arrays of a file that must be there."""
    shard = self._read(seeds)
    if shard is None:
      raise UserError(
        f'{self._path(seeds)} is missing or damaged; rerun the same command to '
        'draw it again'
      )
    return shard

  def _read(self, seeds):
    """Returns the arrays of a file; None if it has to be drawn again."""
    path = self._path(seeds)
    if not path.exists():
      return None
    with files.reading(path):  # an unreadable file may still be intact
      content = path.read_bytes()
    try:
      with np.load(io.BytesIO(content), allow_pickle=False) as file:
        shard = dict(file)
    except Exception:  # NumPy and zipfile raise many types on damage
      return None
    if shard.keys() != {'images', 'seconds', 'identity'}:
      return None
    return shard if str(shard['identity']) == self._identity(seeds) else None
