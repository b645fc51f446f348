"""Statistics of the features of many images, and the files that hold them."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from diffusion_distillation.evaluation.metrics import (
  NUM_NEIGHBOURS,
  Moments,
  inception_score,
)
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress

# Density and coverage need the most images: each one and its neighbours.
MIN_IMAGES = max(NUM_NEIGHBOURS) + 1
# Features of at most this many images are kept for metrics of single images,
# such as precision and KID.
MAX_FEATURES = 50_000
_BATCH_SIZE = 512


class Activations(NamedTuple):
  """What a network computes from N images; a network may have no `spatial`."""

  features: np.ndarray  # (N, D)
  spatial: np.ndarray | None  # (N, E), the features of sFID
  probabilities: np.ndarray  # (N, K), of K classes


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Statistics and features of a set of images; None where not known.

  Attributes:
    mu: mean of the features, (D,) float64.
    sigma: covariance of the features, (D, D) float64.
    mu_s: mean of the spatial features, (E,) float64.
    sigma_s: covariance of the spatial features, (E, E) float64.
    features: (n, D), of all images or of some of them.
    score: (2,), mean and standard deviation of the Inception Score of the same
      images as `features`.
    resize: the rule, a name in `inception.RESIZES`, by which the images were
      resized for the network.
  """

  mu: np.ndarray
  sigma: np.ndarray
  mu_s: np.ndarray | None = None
  sigma_s: np.ndarray | None = None
  features: np.ndarray | None = None
  score: np.ndarray | None = None
  resize: str | None = None


def check_count(count, what):
  """Checks that there are enough images to compute all metrics.

  Args:
    count: number of images.
    what: description of the images, for the error message.

  Raises:
    UserError: there are too few images.
  """
  if count < MIN_IMAGES:
    raise UserError(
      f'{what}: {count} images are too few to measure, at least {MIN_IMAGES} '
      f'are needed (density and coverage take an image and its '
      f'{max(NUM_NEIGHBOURS)} nearest neighbours)'
    )


def compute(network, batches, kept=None):
  """Returns the Statistics of images.

  Args:
    network: maps uint8 images (B, H, W, C) to Activations; `resize` names its
      resizing rule or is None.
    batches: iterable of uint8 images (B, H, W, C), 2 or more in all.
    kept: (N,) bools that select the images of `features` and `score`; None
      selects all.

  Raises:
    ValueError: there are fewer than two images.
  """
  moments, spatial = Moments(), Moments()
  features, probabilities, done = [], [], 0
  for images in batches:
    found = network(images)
    moments.add(found.features)
    if found.spatial is not None:
      spatial.add(found.spatial)
    rows = slice(done, done + len(images))
    chosen = slice(None) if kept is None else kept[rows]
    features.append(found.features[chosen])
    probabilities.append(found.probabilities[chosen])
    done += len(images)
  mu, sigma = moments.result()
  if found.spatial is None:
    # This is a small classifier, whose images are too few to be split.
    mu_s, sigma_s, splits = None, None, 1
  else:
    (mu_s, sigma_s), splits = spatial.result(), 10
  score = inception_score(np.concatenate(probabilities), splits)
  return Statistics(
    mu,
    sigma,
    mu_s,
    sigma_s,
    np.concatenate(features),
    np.array(score),
    network.resize,
  )


def of_some(whole, count):
  """Returns Statistics of the features of some images, evenly spaced.

  Args:
    whole: Statistics with `features`; if there are at most `count`, this is
      returned.
    count: number of images.
  """
  if len(whole.features) <= count:
    return whole
  moments = Moments()
  rows = np.arange(count) * len(whole.features) // count
  moments.add(whole.features[rows])
  return Statistics(*moments.result())


def batches_of(members):
  """Yields consecutive slices of a sequence or an array."""
  for first in range(0, len(members), _BATCH_SIZE):
    yield members[first : first + _BATCH_SIZE]


def with_progress(batches, what, total):
  """Yields batches of images and shows progress on stderr.

  Args:
    batches: iterable of images (B, H, W, C).
    what: the text of the progress line.
    total: number of images.
  """
  progress, done = Progress(what, total, unit='images'), 0
  for images in batches:
    yield images
    done += len(images)
    progress.show(done)


def of_split(network, dataset, split, cache=None):
  """Returns the Statistics of a data set's split, from the cache if possible.

  They have `features` and `score` of at most MAX_FEATURES evenly spaced images.

  Args:
    network: as in `compute`.
    dataset: a Dataset.
    split: 'train' or 'heldout'.
    cache: folder that `files.cache_folder` returned, or None for no cache.
  """
  path = None
  if cache is not None:
    path = cache / _cache_name(network, dataset, split)
    if path.exists():
      try:
        found = read(path)
        # Earlier versions kept no features of held-out images.
        if found.features is not None:
          return found
      except UserError as error:
        print(f'notice: {error}; computing it again', file=sys.stderr)
  examples = getattr(dataset, split)
  kept = np.zeros(len(examples), bool)
  count = min(len(examples), MAX_FEATURES)
  kept[np.arange(count) * len(examples) // count] = True
  what = f'{network.name} of {dataset.name} {split}'
  images = (batch['image'] for batch in read_batches(examples))
  batches = with_progress(images, what, len(examples))
  found = compute(network, batches, kept)
  if path is not None:
    arrays = dataclasses.asdict(found)
    try:
      files.write_npz(path, {k: v for k, v in arrays.items() if v is not None})
    except UserError as error:  # the statistics can still be used
      print(f'notice: statistics are not kept: {error}', file=sys.stderr)
  return found


def _cache_name(network, dataset, split):
  parts = (dataset.fingerprint(split), network.checksum, network.resize)
  digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
  shape = 'x'.join(map(str, dataset.image_shape))
  return f'{dataset.name}-{split}-{shape}-{digest}.npz'


def read_batches(examples):
  """Yields the examples of a split, in order, as batches of arrays."""
  # Threads are used, since decoding a large image takes as long as the network.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for indices in batches_of(range(len(examples))):
      found = list(pool.map(examples.__getitem__, indices))
      yield {key: np.stack([each[key] for each in found]) for key in found[0]}


def read(path):
  """Returns the Statistics in a .npz that has at least `mu` and `sigma`.

  EDM and pytorch-fid write such files. ADM adds `mu_s` and `sigma_s`, and the
  cache of this program keeps all fields.

  Raises:
    UserError: the file is missing, damaged or of another kind.
  """
  # Unlike pathlib's, this keeps the ~ if there is no home folder.
  path = pathlib.Path(os.path.expanduser(path))
  if not os.path.isfile(path):
    raise UserError(f'no statistics at {path}: there is no such file')
  names = [field.name for field in dataclasses.fields(Statistics)]
  with files.reading(path), path.open('rb') as file:
    if not zipfile.is_zipfile(file):
      raise ValueError('it is not a .npz archive')
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
      arrays = {name: found[name] for name in names if name in found}
  resize = arrays.pop('resize', None)
  _check_arrays(path, arrays)
  for name in arrays.keys() - {'features'}:
    arrays[name] = arrays[name].astype(np.float64)
  return Statistics(**arrays, resize=None if resize is None else str(resize))


def _check_arrays(path, arrays):
  """Raises UserError if the arrays of a file do not fit together."""
  for name, array in arrays.items():
    if array.dtype.kind != 'f' or not np.all(np.isfinite(array)):
      raise UserError(f'{path}: {name} must have finite float numbers')
  for mean, covariance in (('mu', 'sigma'), ('mu_s', 'sigma_s')):
    pair = [arrays[name] for name in (mean, covariance) if name in arrays]
    if mean == 'mu' or pair:
      shapes = [array.shape for array in pair]
      d = shapes[0][0] if shapes and shapes[0] else 0
      if d == 0 or shapes != [(d,), (d, d)]:
        raise UserError(
          f'{path} must have {mean} (D,) and {covariance} (D, D), it has '
          f'{shapes or "neither"}'
        )
  if 'features' in arrays:
    d, shape = len(arrays['mu']), arrays['features'].shape
    if len(shape) != 2 or shape[1] != d:
      raise UserError(f'{path} must have features (N, {d}), it has {shape}')
    check_count(len(arrays['features']), path)
  if arrays.get('score', np.zeros(2)).shape != (2,):
    raise UserError(f'{path} must have score (2,)')
