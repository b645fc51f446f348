"""Measures images against a data set: FID, precision, recall and others."""

import functools
import hashlib
import os
import pathlib

import numpy as np

from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.evaluation import metrics, statistics
from diffusion_distillation.evaluation.classifier import (
  CLASSIFIERS,
  Classifier,
)
from diffusion_distillation.evaluation.convnet import TrainedClassifier
from diffusion_distillation.evaluation.inception import RESIZES, Inception
from diffusion_distillation.evaluation.inception_weights import HOW_TO_GET
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError

FEATURES = 'inception', 'classifier'
NO_WEIGHTS = (
  f'FID needs the weights of Inception: {HOW_TO_GET} (beside --config=FILE); '
  'data with labels can also be measured by --config.eval.features=classifier'
)
SEEDS = 'uint8, rounded; seeds 0 to num_samples - 1, classes in turn'
# Share of the held-out images that count as near a training image.
NEAR_SHARE = 0.05
_UNKNOWN_RESIZE = (
  'not known: files of EDM and ADM go with tf1, those of pytorch-fid with '
  'pytorch'
)


def open_evaluator(config, dataset, needed=True):
  """Returns the Evaluator that a config describes.

  Args:
    config: the config of a run or of a card.
    dataset: Dataset of the config.
    needed: whether missing weights of Inception are an error; if not, the
      result is then None.

  Raises:
    UserError: the weights, the data or the reference cannot be used, or
      `eval.num_samples` or `eval.resize` is not valid.
  """
  settings = config.eval
  statistics.check_count(settings.num_samples, 'config: eval.num_samples')
  network = open_network(config.dataset, settings)
  if network is not None:
    return Evaluator(network, dataset, settings)
  if needed:
    raise UserError(NO_WEIGHTS)
  return None


def open_network(data, settings):
  """Returns the network whose features are used to measure a data set.

  Args:
    data: the config's section `dataset`.
    settings: the config's section `eval`. Without `features`, as in cards that
      are older than the key, digits are measured by their classifier.

  Returns:
    The network; None for Inception if `inception_path` is not set.

  Raises:
    UserError: the features are unknown, the weights cannot be read, the
      resizing rule is unknown, or the data have no labels for a classifier.
  """
  features = settings.get('features')
  if features not in (None, *FEATURES):
    raise UserError(
      f'config: unknown eval.features={features!r}; known: '
      f'{", ".join(FEATURES)}'
    )
  if data.name in CLASSIFIERS and features != 'inception':
    return Classifier(data.name)
  if features == 'classifier':
    cache = files.cache_folder(settings.get('cache_dir'), 'eval.cache_dir')
    return TrainedClassifier(_labelled(data), cache)
  resize = settings.get('resize') or 'tf1'  # cards may be older than the key
  if resize not in RESIZES:
    raise UserError(
      f'config: unknown eval.resize={resize!r}; known: {", ".join(RESIZES)}'
    )
  path = settings.get('inception_path')
  return None if path is None else Inception(path, resize)


def _labelled(data):
  """Returns the Dataset of a config's section `dataset`, with its labels."""
  try:
    dataset = load_dataset(data.name, {**data.args, 'class_conditional': True})
  except (ValueError, UserError) as error:
    raise UserError(
      "config: eval.features='classifier' needs labels, which the data set "
      f"{data.name} does not have; set eval.features='inception'"
    ) from error
  if dataset.num_classes < 2:
    raise UserError(
      "config: eval.features='classifier' needs a data set of two or more "
      f'classes, {data.name} has {dataset.num_classes}; set '
      "eval.features='inception'"
    )
  return dataset


class Evaluator:
  """Measures images against a data set's training images, or against a file.

  The statistics of the training images are computed, or read from the cache,
  when they are first needed. With a file, only those metrics are measured that
  its arrays allow: mean and covariance give the Frechet distance alone.
  """

  def __init__(self, network, dataset, settings):
    """Checks everything that can be checked before images are measured.

    Args:
      network: as `open_network` returns it.
      dataset: a Dataset.
      settings: the config's section `eval`.

    Raises:
      UserError: the data are missing or too few, or `reference_path` does not
        have statistics of these features.
    """
    self._network, self._dataset = network, dataset
    self._cache = files.cache_folder(
      settings.get('cache_dir'), 'eval.cache_dir'
    )
    self._path, self._file = settings.get('reference_path'), None
    if self._path is None:
      count = len(dataset.train)
      statistics.check_count(count, f'training images of {dataset.name}')
    else:
      # Unlike pathlib's, this keeps the ~ if there is no home folder.
      self._path = pathlib.Path(os.path.expanduser(self._path))
      self._file = statistics.read(self._path)
      self._check_file()

  def _check_file(self):
    """Raises UserError if the reference file has other features."""
    network, count = self._network, len(self._file.mu)
    if count != network.num_features:
      raise UserError(
        f'{self._path} has statistics of {count} features, {network.name} has '
        f'{network.num_features}; set another --config.eval.reference_path'
      )
    if self._file.resize not in (None, network.resize):
      raise UserError(
        f'{self._path} was made with eval.resize={self._file.resize!r}, but '
        f'this config has {network.resize!r}; set --config.eval.resize='
        f'{self._file.resize}, or another --config.eval.reference_path'
      )

  @functools.cached_property
  def _reference(self):
    """The Statistics of the file, or of the training images."""
    return self._file or self._of_split('train')

  @functools.cached_property
  def _radii(self):
    return metrics.knn_radii(self._reference.features)

  @functools.cached_property
  def _heldout(self):
    """The Statistics of the held-out images, or None."""
    return self._of_split('heldout') if self._has_heldout else None

  @functools.cached_property
  def _near(self):
    """The squared distance below which images are near a training image."""
    real = self._reference.features
    heldout = metrics.nearest(real, self._heldout.features)
    # Copies of training images are near even if many held-out ones are copies,
    # too: their distances are rounding errors.
    rounding = 1e-9 * np.mean(np.sum(real.astype(np.float64) ** 2, axis=1))
    return max(np.quantile(heldout, NEAR_SHARE), rounding)

  @functools.cached_property
  def _has_heldout(self):
    # With a reference file, the data set need not exist.
    if self._file is not None or self._dataset.heldout is None:
      return False
    return len(self._dataset.heldout) > 1

  def _of_split(self, split):
    return statistics.of_split(self._network, self._dataset, split, self._cache)

  def protocol(self, num_samples, images=SEEDS):
    """Returns what determines the figures, apart from the images, as JSON.

    Figures are comparable if their protocols are equal.

    Args:
      num_samples: number of images that are measured.
      images: text that describes these images.
    """
    dataset, network = self._dataset, self._network
    heldout = None
    if self._has_heldout:
      count = len(dataset.heldout)
      heldout = f'{dataset.name} held out, {count} images'
      if num_samples < count:
        heldout += f'; {num_samples} for the floor'
    return {
      'name': 'frechet_distance',
      'label': network.label,
      'dataset': dataset.name,
      'features': network.description,
      'features_checksum': network.checksum,
      'resize': network.resize,
      'num_samples': num_samples,
      'images': images,
      **(
        self._data_protocol() if self._file is None else self._file_protocol()
      ),
      'heldout': heldout,
      'heldout_checksum': heldout and dataset.fingerprint('heldout'),
    }

  def _data_protocol(self):
    """Returns the part of the protocol about the training images."""
    name, count = self._dataset.name, len(self._dataset.train)
    reference = f'{name} train, {count} images'
    if count > statistics.MAX_FEATURES:
      reference += f'; precision, recall and KID of {statistics.MAX_FEATURES}'
    return {
      'reference': reference,
      'reference_checksum': self._dataset.fingerprint('train'),
      'reference_resize': self._network.resize,
    }

  def _file_protocol(self):
    """Returns the part of the protocol about the reference file."""
    reference, resize = self._path.name, self._file.resize
    if self._file.mu_s is None:
      reference += ', without sFID'
    if self._file.features is None:
      reference += ', without precision, recall and KID'
    if resize is None and self._network.resize is not None:
      resize = _UNKNOWN_RESIZE
    return {
      'reference': reference,
      'reference_checksum': hashlib.sha256(self._path.read_bytes()).hexdigest(),
      'reference_resize': resize,
    }

  def real_figures(self, num_images):
    """Returns the figures of real images; None where they are not known.

    'floor' is the Frechet distance of held-out images, and
    'train_classifier_score' the score of the training images.

    Args:
      num_images: number of held-out images; if there are fewer, all are taken.
        Few images have a larger distance, so it should be the number of samples
        to compare with.
    """
    floor = None
    if self._heldout is not None:
      heldout = statistics.of_some(self._heldout, num_images)
      floor = _distance(self._reference, heldout)
    score = self._reference.score
    return {
      'floor': floor,
      'train_classifier_score': None if score is None else float(score[0]),
    }

  def measure(self, batches, num_images):
    """Returns the figures of images as a dict of floats.

    'frechet_distance_error' is the standard error of 'frechet_distance' that is
    due to the choice of the measured images.

    Args:
      batches: iterable of uint8 images (B, H, W, C).
      num_images: number of images in all batches.

    Raises:
      UserError: there are too few images.
    """
    statistics.check_count(num_images, 'the images to measure')
    batches = statistics.with_progress(
      batches, f'{self._network.label} of samples', num_images
    )
    real, found = self._reference, statistics.compute(self._network, batches)
    figures = {
      'frechet_distance': _distance(real, found),
      'frechet_distance_error': metrics.frechet_distance_error(
        real.mu, real.sigma, found.features
      ),
    }
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
      figures |= self._neighbours(found)
    return figures

  def _neighbours(self, found):
    """Returns the figures of nearest neighbours of Statistics."""
    figures = metrics.neighbours(
      self._reference.features, found.features, self._radii
    )._asdict()
    nearest = figures.pop('nearest')
    if self._heldout is not None:
      figures['memorization'] = float(np.mean(nearest <= self._near))
    return figures


def _distance(one, other):
  return metrics.frechet_distance(one.mu, one.sigma, other.mu, other.sigma)
