"""A small convolutional classifier of any labelled data set, and its features.

Inception needs a file of weights, was trained on photographs, and sees small
images enlarged ten times. This classifier is trained once on the training
images of the data set that it measures. Its Frechet distances are not FID: they
are comparable for the same weights only, whose checksum the protocol states.
"""

import functools
import hashlib
import itertools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from scipy.special import softmax

from diffusion_distillation.data.batches import batches
from diffusion_distillation.evaluation import statistics
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress

# The recipe. The name of a file in the cache has its version, which grows where
# the recipe changes.
_VERSION = 1
_NUM_UPDATES = 1500
_BATCH_SIZE = 128
_LEARNING_RATE = 2e-3  # the peak of its one-cycle schedule
_WEIGHT_DECAY = 1e-4
_NUM_FEATURES = 128
# Largest number of images, and of pixels, that are classified at once.
_MAX_IMAGES, _MAX_PIXELS = 512, 2**19
_SMALLEST = 8  # images are halved until they are at most this large


class ConvNet(nn.Module):
  """Returns the features (B, 128) and logits (B, K) of images.

  At each resolution there are two convolutions, of 32, 64 or 128 channels, of
  which the second halves the image.
  """

  num_classes: int

  @nn.compact
  def __call__(self, images):
    """Takes images (B, H, W, C) uint8."""
    h, channels = images.astype(jnp.float32) / 127.5 - 1, 32
    while channels == 32 or min(h.shape[1:3]) > _SMALLEST:
      h = nn.relu(nn.Conv(channels, (3, 3))(h))
      h = nn.relu(nn.Conv(channels, (3, 3), strides=2)(h))
      channels = min(2 * channels, 128)
    features = nn.relu(nn.Dense(_NUM_FEATURES)(h.reshape(len(h), -1)))
    return features, nn.Dense(self.num_classes)(features)


class TrainedClassifier:
  """Computes features of images by a classifier of their own data set.

  It is trained, or read from the cache, when it is first needed.

  Attributes:
    name: name of the features.
    description: the name and the accuracy, for the protocol.
    label: name of Frechet distances between these features.
    num_features: number of features.
    checksum: SHA-256 of the weights, in hexadecimal.
    resize: None, since images are not resized.
    accuracy: share of the held-out images that it classifies correctly.
  """

  label = 'Frechet distance'
  num_features = _NUM_FEATURES
  resize = None

  def __init__(self, dataset, cache=None):
    """Takes a Dataset with labels, and the folder of the cache.

    Args:
      dataset: a Dataset.
      cache: folder that `files.cache_folder` returned, or None for no cache.
    """
    self.name = f'{dataset.name}-classifier'
    self._dataset, self._cache = dataset, cache
    self._model = ConvNet(dataset.num_classes)
    self._apply = jax.jit(self._model.apply)
    height, width, _ = dataset.image_shape
    most = min(_MAX_IMAGES, _MAX_PIXELS // (height * width))
    self._batch_size = max(1, most)

  @functools.cached_property
  def _variables(self):
    model, dataset = self._model, self._dataset
    path = self._cache and self._cache / _cache_name(dataset)
    variables = path and _read(path, _shapes(model, dataset))
    if variables is None:
      variables = _train(model, dataset)
      if path is not None:
        _write(path, variables)
    return variables

  @functools.cached_property
  def checksum(self):
    leaves = jax.tree.leaves(self._variables)
    digest = hashlib.sha256(b''.join(np.asarray(x).tobytes() for x in leaves))
    return digest.hexdigest()

  @functools.cached_property
  def accuracy(self):
    right = 0
    for batch in statistics.read_batches(self._dataset.heldout):
      found = self(batch['image']).probabilities.argmax(axis=-1)
      right += np.sum(found == batch['label'])
    return float(right / len(self._dataset.heldout))

  @property
  def description(self):
    return f'{self.name} ({self.accuracy:.1%} of the held-out images right)'

  def __call__(self, images):
    """Returns Activations: features (N, 128), probabilities (N, K), float32.

    Args:
      images: (N, H, W, C) uint8.
    """
    size, features, logits = self._batch_size, [], []
    for first in range(0, len(images), size):
      batch = images[first : first + size]
      # Smaller batches are padded, so that one program serves all of them.
      padded = np.resize(batch, (size, *images.shape[1:]))
      found = self._apply(self._variables, padded)
      features.append(np.asarray(found[0])[: len(batch)])
      logits.append(np.asarray(found[1])[: len(batch)])
    probabilities = softmax(np.concatenate(logits), axis=-1)
    return statistics.Activations(np.concatenate(features), None, probabilities)


def _train(model, dataset):
  """Returns the variables of a model, trained on a data set, on the host."""
  schedule = optax.cosine_onecycle_schedule(_NUM_UPDATES, _LEARNING_RATE)
  optimizer = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
  variables = _init(model, dataset)
  state = optimizer.init(variables)

  def loss_of(variables, batch):
    _, logits = model.apply(variables, batch['image'])
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(variables, state, batch):
    changes, state = optimizer.update(
      jax.grad(loss_of)(variables, batch), state, variables
    )
    return optax.apply_updates(variables, changes), state

  progress = Progress(f'classifier of {dataset.name}', _NUM_UPDATES, 'updates')
  examples = batches(dataset, batch_size=_BATCH_SIZE, seed=0)
  for number, batch in enumerate(itertools.islice(examples, _NUM_UPDATES), 1):
    variables, state = update(variables, state, batch)
    progress.show(number)
  return jax.device_get(variables)


def _init(model, dataset):
  images = jnp.zeros((1, *dataset.image_shape), jnp.uint8)
  return jax.jit(model.init)(jax.random.key(0), images)


def _shapes(model, dataset):
  """Returns the shapes of a model's variables, name -> shape."""
  variables = jax.eval_shape(functools.partial(_init, model, dataset))
  return {name: leaf.shape for name, leaf in _flat(variables).items()}


def _flat(variables):
  return traverse_util.flatten_dict(variables, sep='/')


def _cache_name(dataset):
  fingerprint = dataset.fingerprint('train')
  parts = _VERSION, fingerprint, dataset.num_classes, dataset.random_flip
  digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
  shape = 'x'.join(map(str, dataset.image_shape))
  return f'{dataset.name}-classifier-{shape}-{digest}.npz'


def _read(path, shapes):
  """Returns the variables in a file, or None if there is no usable one."""
  if not path.exists():
    return None
  try:
    with files.reading(path), np.load(path, allow_pickle=False) as found:
      arrays = dict(found)
      if {name: array.shape for name, array in arrays.items()} != shapes:
        raise ValueError('it holds another network')
  except UserError as error:
    print(f'notice: {error}; training it again', file=sys.stderr)
    return None
  return traverse_util.unflatten_dict(arrays, sep='/')


def _write(path, variables):
  try:
    files.write_npz(path, _flat(variables))
  except UserError as error:  # the classifier can still be used
    print(f'notice: the classifier is not kept: {error}', file=sys.stderr)
