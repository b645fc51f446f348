"""What is kept of the features of many images, and files of it."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import pathlib
import sys
import zipfile
import zlib

import numpy as np

from diffusion_distillation.evaluation.metrics import Moments, inception_score
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress

# Features of that many images are kept, for precision, recall and KID.
MOST_FEATURES = 50_000
_BATCH = 512
# Images that tell a data set from another of the same name and size.
_SAMPLED = 64


@dataclasses.dataclass(frozen=True)
class FeatureSet:
  """Statistics and features of a set of images.

  Attributes:
    mu: mean of the features, (D,) float64.
    sigma: their covariance, (D, D) float64.
    mu_s: mean of the spatial features; None: not known.
    sigma_s: their covariance.
    features: (n, D), of all images or of some; None: not known.
    score: (2,), the Inception Score's mean and standard deviation, of the
      same images; None: not known.
  """

  mu: np.ndarray
  sigma: np.ndarray
  mu_s: np.ndarray | None = None
  sigma_s: np.ndarray | None = None
  features: np.ndarray | None = None
  score: np.ndarray | None = None


def collect(network, batches, kept=None):
  """Returns the FeatureSet of images.

  Args:
    network: maps images to Activations.
    batches: iterable of uint8 (B, H, W, C).
    kept: (N,) bools, of which images `features` and `score` are; None: of all.

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
  if found.spatial is None:  # a small classifier, of too few images for splits
    mu_s, sigma_s, splits = None, None, 1
  else:
    (mu_s, sigma_s), splits = spatial.result(), 10
  score = inception_score(np.concatenate(probabilities), splits)
  return FeatureSet(
    mu, sigma, mu_s, sigma_s, np.concatenate(features), np.array(score)
  )


def batches_of(members):
  """Yields the members of a sequence, or array, in batches."""
  for first in range(0, len(members), _BATCH):
    yield members[first : first + _BATCH]


def of_split(network, dataset, split, cache_dir=None):
  """Returns the FeatureSet of a data set's split; a cache keeps it.

  Of 'train', `features` and `score` are of at most 50,000 images, evenly
  spaced; of 'heldout' there are none.

  Args:
    network: maps images to Activations.
    dataset: a Dataset.
    split: 'train' or 'heldout'.
    cache_dir: folder of the cache; None or empty: no cache.

  Raises:
    OSError: the cache cannot be written.
  """
  examples = getattr(dataset, split)
  path = None
  if cache_dir:
    folder = pathlib.Path(cache_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _cache_name(network, dataset, split)
    if path.exists():
      try:
        return read(path)
      except UserError as error:
        print(f'notice: {error}; it is made anew', file=sys.stderr)
  kept = np.zeros(len(examples), bool)
  count = min(len(examples), MOST_FEATURES)
  kept[np.arange(count) * len(examples) // count] = True
  what = f'{network.name} of {dataset.name} {split}'
  batches = shown(_batches(examples), what, len(examples))
  found = collect(network, batches, kept)
  if split != 'train':
    found = dataclasses.replace(found, features=None, score=None)
  if path is not None:
    arrays = dataclasses.asdict(found)
    present = {k: v for k, v in arrays.items() if v is not None}
    files.write_npz(path, present)
  return found


def fingerprint(examples):
  """Returns what tells examples from others, in hexadecimal.

  It is a SHA-256 of how many they are and of 64 of their images, evenly spaced:
  to read all of ImageNet would take an hour.

  Args:
    examples: sequence of {'image': ...}.
  """
  digest = hashlib.sha256(str(len(examples)).encode())
  for i in range(min(len(examples), _SAMPLED)):
    index = i * len(examples) // min(len(examples), _SAMPLED)
    digest.update(np.ascontiguousarray(image_of(examples, index)))
  return digest.hexdigest()


def image_of(examples, index):
  """Returns the image of an example, uint8 (H, W, C).

  Raises:
    UserError: it is damaged, or not there any more.
  """
  try:
    return examples[index]['image']
  except (ValueError, OSError) as error:
    raise UserError(f'data: {error}') from error


def _cache_name(network, dataset, split):
  identity = fingerprint(getattr(dataset, split)) + network.checksum
  digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
  shape = 'x'.join(map(str, dataset.image_shape))
  return f'{dataset.name}-{split}-{shape}-{digest}.npz'


def shown(batches, what, total):
  """Yields batches of images, and shows progress.

  Args:
    batches: iterable of (B, H, W, C).
    what: what is done with them.
    total: number of images.
  """
  progress, done = Progress(what, total, unit='images'), 0
  for images in batches:
    yield images
    done += len(images)
    progress.show(done)


def _batches(examples):
  """Yields the images of examples in batches."""
  image = functools.partial(image_of, examples)
  # Threads, since decoding a large image takes as long as the network.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for indices in batches_of(range(len(examples))):
      yield np.stack(list(pool.map(image, indices)))


def read(path):
  """Returns the FeatureSet of a .npz with `mu` and `sigma`.

  EDM and pytorch-fid write such files, ADM adds `mu_s` and `sigma_s`, and the
  cache all fields of a FeatureSet.

  Raises:
    UserError: it is not there, damaged, or something else.
  """
  path = pathlib.Path(path).expanduser()
  if not path.exists():
    raise UserError(f'no statistics at {path}: there is no such file')
  if not zipfile.is_zipfile(path):
    raise UserError(f'{path} is no .npz of statistics, or is damaged')
  names = [field.name for field in dataclasses.fields(FeatureSet)]
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in names if name in file}
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} is damaged: {error}') from error
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
  return FeatureSet(**arrays)
