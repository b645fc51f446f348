"""What is measured: a config's network, and random images of its data set."""

import dataclasses
import functools
import runpy

import jax
import numpy as np

from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.training.plan import forward_flops

# (H, W, C) and the classes of the data sets whose loaders need more packages.
_KNOWN = {
  'digits': ((8, 8, 1), 10),
  'cifar10': ((32, 32, 3), 10),
  'imagenet64': ((64, 64, 3), 1000),
  'lsun_bedroom128': ((128, 128, 3), 1),
  'lsun_church128': ((128, 128, 3), 1),
}


def image_shape_and_classes(dataset):
  """Returns (H, W, C) and the classes of a data set that is not opened.

  Args:
    dataset: config.dataset.

  Raises:
    ValueError: only its files tell.
  """
  conditional = dataset.args.get('class_conditional', False)
  if dataset.name in _KNOWN:
    image_shape, num_classes = _KNOWN[dataset.name]
    return image_shape, num_classes if conditional else 1
  if conditional or 'image_size' not in dataset.args:
    raise ValueError(
      f'the classes and the size of {dataset.name!r} are in its files: give a '
      'config with dataset.args.image_size and without class_conditional'
    )
  size = dataset.args.image_size
  return (size, size, 3), 1


@dataclasses.dataclass(frozen=True)
class Subject:
  """A config to measure.

  Attributes:
    config: of a distillation or, without its section, of a teacher.
    batch_sizes: to measure at.
    profile: folder for a trace, or None.
  """

  config: object
  batch_sizes: tuple[int, ...]
  profile: str | None = None

  @functools.cached_property
  def denoiser(self):
    """Its network: teacher's and student's."""
    shape, num_classes = image_shape_and_classes(self.config.dataset)
    return build_denoiser(self.config.model, shape, num_classes)

  @functools.cached_property
  def params(self):
    """Of the network, at random, host arrays."""
    params = jax.jit(self.denoiser.init)(jax.random.key(0))
    return jax.tree.map(np.asarray, params)

  @functools.cached_property
  def flops(self):
    """FLOPs of one evaluation of one image."""
    return forward_flops(self.denoiser)

  def batch(self, batch_size):
    """Returns a batch of random images, as the data pipeline gives it."""
    rng = np.random.default_rng(0)
    shape, num_classes = image_shape_and_classes(self.config.dataset)
    return {
      'image': rng.integers(0, 256, (batch_size, *shape), np.uint8),
      'label': rng.integers(0, num_classes, batch_size, np.int32),
    }


def read(path, batch_sizes=(), dtype=None, profile=None):
  """Returns the Subject of a config file.

  Args:
    path: of the file.
    batch_sizes: none is the config's.
    dtype: of the network's computation; None is the config's.
    profile: folder for a trace, or None.
  """
  config = runpy.run_path(path)['get_config']()
  if dtype is not None:
    config.model.args.dtype = dtype
  return Subject(config, batch_sizes or (config.train.batch_size,), profile)
