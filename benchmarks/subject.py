"""The subject of the suites: a config, its networks, and random images."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation import checkpoints
from diffusion_distillation.commands import config_file
from diffusion_distillation.data.dataset import (
  ArrayExamples,
  Dataset,
  load_dataset,
)
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime import devices
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.config import check, trainings
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.plan import forward_flops
from diffusion_distillation.training.state import create_state
from diffusion_distillation.training.step import make_step

NUM_STEPS = 4  # sampling steps of the student; the cost is the same for all
NUM_UPDATES = 10**6  # length of the trainings, for their learning rates
SEED = 1  # of the times and the noise of updates


@dataclasses.dataclass(frozen=True)
class Subject:
  """A config to measure. Its data set is not opened.

  Attributes:
    config: config of a run.
    batch_sizes: batch sizes to measure at.
    profile: folder for a profiler trace, or None.
    checkpoint: path of trained weights, or None.
  """

  config: ConfigDict
  batch_sizes: tuple[int, ...]
  profile: str | None = None
  checkpoint: str | None = None

  @functools.cached_property
  def dataset(self):
    """The Dataset."""
    return load_dataset(self.config.dataset.name, self.config.dataset.args)

  @functools.cached_property
  def denoiser(self):
    """The Denoiser of the config's own section `model`."""
    return self._build_denoiser(self.config)

  @functools.cached_property
  def params(self):
    """Random parameters of the network, host arrays; none of them is 0."""
    params = jax.jit(self.denoiser.init)(jax.random.key(0))
    rng = np.random.default_rng(0)

    def filled(leaf):
      # Layers start at 0 where a block is to have no effect.
      scale = 0.3 / math.sqrt(leaf.size / leaf.shape[-1])
      noise = scale * rng.standard_normal(leaf.shape, np.float32)
      return np.where(leaf == 0, noise, leaf)

    return jax.tree.map(filled, params)

  @functools.cached_property
  def flops(self):
    """FLOPs of one network evaluation of one image."""
    return forward_flops(self.denoiser)

  def trained(self):
    """Returns the Checkpoint of the trained weights.

    Raises:
      UserError: none is given, or it cannot be read.
    """
    if self.checkpoint is None:
      raise UserError('this suite needs --checkpoint=PATH, a trained teacher')
    return checkpoints.load(self.checkpoint, self.config)

  def batch(self, batch_size):
    """Returns a batch of random images, as the data pipeline gives it."""
    shape, num_classes = self.dataset.image_shape, self.dataset.num_classes
    return random_examples(batch_size, shape, num_classes)[:]

  @property
  def trainings(self):
    """The Trainings of the run; the teacher's comes first."""
    return trainings(self.config)

  def teacher_and_students(self):
    """Returns the Training of the teacher and that of the students.

    Raises:
      UserError: the config does not have both.
    """
    if len(self.trainings) != 2:
      raise UserError(
        'this suite needs a config that trains a teacher and students, such as '
        'configs/digits_distill.py'
      )
    return self.trainings

  def updater(self, training, batches):
    """Returns a function that makes further updates and returns their metrics.

    Args:
      training: a Training of the config.
      batches: result of `devices.shard`; every call uses the same batches.
    """
    compiled, state, others = self._step(training, batches)

    def update():
      nonlocal state
      state, metrics = compiled(state, *others)
      return metrics

    return update

  def compiled_text(self, training, batches):
    """Returns the optimized HLO of a step; see `updater`."""
    compiled, state, others = self._step(training, batches)
    return compiled.lower(state, *others).compile().as_text()

  def _step(self, training, batches):
    """Returns a step, compiled as in a run, its state and other arguments."""
    train = training.config.train
    optimizer = make_optimizer(train)
    denoiser = self._build_denoiser(training.config)
    step = make_step(
      training.step_name, training.objective, denoiser, optimizer, train
    )
    compiled = devices.compile_step(step, in_axes=(0, 0, None, 0, None))
    state = create_state(
      self.params, optimizer, num_updates=NUM_UPDATES, ema_decay=train.ema_decay
    )
    state = devices.replicate(jax.tree.map(np.asarray, state))
    teacher = None
    if training.objective.needs_teacher:
      teacher = devices.replicate(self.params)
    num_steps, key = jnp.int32(NUM_STEPS), jax.random.key(SEED)

    return compiled, state, (teacher, num_steps, batches, key)

  def _build_denoiser(self, config):
    dataset = self.dataset
    return build_denoiser(
      config.model, dataset.image_shape, dataset.num_classes
    )


def read(
  path,
  batch_sizes=(),
  dtype=None,
  profile=None,
  checkpoint=None,
  settings=None,
):
  """Returns the Subject of a config file.

  Args:
    path: config file, or the name of a config of this project.
    batch_sizes: batch sizes to measure at; () takes the config's.
    dtype: type that the network computes in; None takes the config's.
    profile: folder for a profiler trace, or None.
    checkpoint: path of trained weights, or None.
    settings: other keys of the config to change, dotted name -> value.

  Raises:
    UserError: the config cannot be used, or a setting does not fit it.
  """
  config = config_file.load(path)
  if dtype is not None:
    config.model.args.dtype = dtype
  config.lock()
  for key, value in (settings or {}).items():
    try:
      config.update_from_flattened_dict({key: value})
    except (KeyError, TypeError) as error:
      raise UserError(
        f'--set={key}={value}: the config has no such key, or one of another '
        'type'
      ) from error
  check(config)
  sizes = batch_sizes or (config.train.batch_size,)
  return Subject(config, sizes, profile, checkpoint)


def random_examples(count, image_shape, num_classes):
  """Returns Examples of random images and labels, in memory."""
  rng = np.random.default_rng(0)
  return ArrayExamples(
    rng.integers(0, 256, (count, *image_shape), np.uint8),
    rng.integers(0, num_classes, count, np.int32),
  )


def random_dataset(count):
  """Returns a Dataset of random images of CIFAR-10's size."""
  shape = (32, 32, 3)
  examples = random_examples(count, shape, num_classes=1)
  return Dataset(
    name='random',
    image_shape=shape,
    num_classes=1,
    random_flip=True,
    open_train=lambda: examples,
    open_heldout=lambda: examples,
  )
