"""Compares images with a data set, as the field does."""

import functools
import hashlib
import pathlib

from diffusion_distillation.evaluation import metrics, statistics
from diffusion_distillation.evaluation.classifier import (
  NO_WEIGHTS,
  Classifier,
  open_features,
)
from diffusion_distillation.runtime.errors import UserError

SEEDS = 'uint8, rounded; seeds 0 to num_samples - 1, the classes in turn'


def open_evaluator(config, dataset, needed=True):
  """Returns the Evaluator that a config describes.

  Args:
    config: of a run, or of a card.
    dataset: its Dataset.
    needed: whether it is an error that there are no weights of Inception; else
      the result then is None.

  Raises:
    UserError: they, the data or the reference are not there, or are not right.
  """
  settings = config.eval
  network = open_features(config.dataset.name, settings.get('inception_path'))
  if network is not None:
    return Evaluator(network, dataset, settings)
  if needed:
    raise UserError(NO_WEIGHTS)
  return None


class Evaluator:
  """Compares images with a data set's training images, or with a file's.

  What it compares with is computed, or read from the cache, when it is first
  needed. A file gives no more than what is in it: one of mean and covariance
  allows the Frechet distance and the Inception Score.
  """

  def __init__(self, network, dataset, settings):
    """Opens what images are compared with.

    Args:
      network: of `features.open_features`.
      dataset: a Dataset.
      settings: config.eval, or the same of a card.

    Raises:
      UserError: the data are not there, or `reference_path` holds no statistics
        of these features.
    """
    self._network, self._dataset = network, dataset
    self._of_split = functools.partial(
      statistics.of_split,
      network,
      dataset,
      cache_dir=settings.get('cache_dir'),
    )
    self._path, self._file = settings.get('reference_path'), None
    if self._path is not None:
      self._file = _read_reference(self._path, network)
      return
    try:
      len(dataset.train)
    except ValueError as error:  # it is not there
      raise UserError(str(error)) from error

  @functools.cached_property
  def _reference(self):
    """The FeatureSet of the file, or of the training images."""
    return self._of_split('train') if self._file is None else self._file

  @functools.cached_property
  def _fingerprint(self):
    return statistics.fingerprint(self._dataset.train)

  @property
  def _is_small(self):
    return isinstance(self._network, Classifier)

  @functools.cached_property
  def _radii(self):
    return metrics.radii(self._reference.features)

  @functools.cached_property
  def _heldout(self):
    """The FeatureSet of the held-out images, or None."""
    return self._of_split('heldout') if self._has_heldout else None

  @functools.cached_property
  def _has_heldout(self):
    # A reference from a file is not to need the data.
    if self._file is not None or self._dataset.heldout is None:
      return False
    return len(self._dataset.heldout) > 1

  def protocol(self, num_samples, images=SEEDS):
    """Returns how images are measured, as JSON values.

    Args:
      num_samples: how many images.
      images: what they are.
    """
    name, small = self._dataset.name, self._is_small
    if self._file is None:
      count = len(self._dataset.train)
      checksum = self._fingerprint
      reference = f'{name} train, {count} images'
      if count > statistics.MOST_FEATURES:
        reference += (
          f'; precision, recall and KID of {statistics.MOST_FEATURES}'
        )
    else:
      path = pathlib.Path(self._path).expanduser()
      checksum = hashlib.sha256(path.read_bytes()).hexdigest()
      reference = path.name
      if self._file.mu_s is None:
        reference += ', without sFID'
      if self._file.features is None:
        reference += ', without precision, recall and KID'
    heldout = None
    if self._has_heldout:
      heldout = f'{name} held out, {len(self._dataset.heldout)} images'
    return {
      'name': 'frechet_distance',
      'label': 'Frechet distance' if small else 'FID',
      'dataset': name,
      'features': self._network.name,
      'features_checksum': self._network.checksum,
      'resize': None if small else 'TF1 bilinear to 299',
      'num_samples': num_samples,
      'images': images,
      'reference': reference,
      'reference_checksum': checksum,
      'heldout': heldout,
    }

  def real_figures(self):
    """Returns what real images are worth; None where it is not known."""
    floor = None
    if self._heldout is not None:
      floor = _distance(self._reference, self._heldout)
    score = self._reference.score
    return {
      'floor': floor,
      'train_classifier_score': None if score is None else float(score[0]),
    }

  def measure(self, batches, num_images):
    """Returns the figures of generated images, and shows progress.

    Args:
      batches: iterable of uint8 (B, H, W, C).
      num_images: how many images they have.
    """
    if not self._is_small:  # which takes no time worth showing
      batches = statistics.shown(
        batches, f'{self._network.name} of samples', num_images
      )
    real, found = self._reference, statistics.collect(self._network, batches)
    figures = {'frechet_distance': _distance(real, found)}
    if self._heldout is not None:
      figures['frechet_distance_heldout'] = _distance(self._heldout, found)
    score, deviation = map(float, found.score)
    if found.mu_s is None:
      figures['classifier_score'] = score
    else:
      figures['inception_score'] = score
      figures['inception_score_std'] = deviation
      if real.mu_s is not None:
        figures['sfid'] = metrics.frechet_distance(
          real.mu_s, real.sigma_s, found.mu_s, found.sigma_s
        )
      if real.features is not None:
        figures['kid'] = metrics.kid(real.features, found.features)
    if real.features is not None:
      figures['precision'], figures['recall'] = metrics.precision_recall(
        real.features, found.features, self._radii
      )
    return figures


def _distance(one, other):
  return metrics.frechet_distance(one.mu, one.sigma, other.mu, other.sigma)


def _read_reference(path, network):
  """Returns the FeatureSet of a file, once it is of these features."""
  found, size = statistics.read(path), network.num_features
  if len(found.mu) != size:
    raise UserError(
      f'{path} has statistics of {len(found.mu)} features, {network.name} has '
      f'{size}; give another --config.eval.reference_path'
    )
  return found
