"""Algorithm 2: the teacher, then round after round of halving its steps."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import step_folder
from diffusion_distillation.checkpoints.card import card_of
from diffusion_distillation.checkpoints.checkpoint_folder import (
  CheckpointFolder,
)
from diffusion_distillation.checkpoints.saver import Saver
from diffusion_distillation.data.dataset import Dataset
from diffusion_distillation.data.pipeline import batches
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.objectives.denoising import make_train_step
from diffusion_distillation.objectives.progressive import make_distill_step
from diffusion_distillation.objectives.rounds import number_of, rounds
from diffusion_distillation.runtime import devices, processes
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.training.config import teacher_config
from diffusion_distillation.training.followers import NoCheckpoints
from diffusion_distillation.training.loop import run
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.stage import Stage
from diffusion_distillation.training.state import create_state


@dataclasses.dataclass(frozen=True)
class Trainer:
  """All trainings of one config, in one run folder.

  Attributes:
    config: the config, checked.
    dataset: its Dataset.
    workdir: the run folder, absolute.
    teacher: path of the checkpoint to distill; None trains the teacher first.
    log: a RunLog.
    evaluate: (weights, card, name) -> metrics, for `train.eval_every_steps`.
    saver: of all checkpoints; one round's last is saved while the next begins.
  """

  config: ConfigDict
  dataset: Dataset
  workdir: pathlib.Path
  teacher: str | None
  log: RunLog
  evaluate: Callable
  saver: Saver = dataclasses.field(default_factory=Saver)

  def run(self):
    """Trains what is not trained yet: the teacher, or all of Algorithm 2."""
    with self.saver:
      if self.config.distillation is None:
        self.train_teacher(self.config)
      elif self.teacher is None:
        weights = self.train_teacher(teacher_config(self.config))
        self.distill(weights, str(self.workdir / 'teacher'))
      else:
        weights = devices.replicate(self._load_teacher())
        self.distill(weights, self.teacher)

  def _load_teacher(self):
    weights = None
    if processes.is_main():
      weights = checkpoints.load(self.teacher, config=self.config).weights
    return processes.broadcast(weights)

  def train_teacher(self, config):
    """Returns the teacher's weights on all devices, trained by `config`."""
    optimizer, denoiser = make_optimizer(config.train), self._denoiser(config)
    step = make_train_step(denoiser, optimizer, config)
    compiled = devices.compile_step(step, in_axes=(0, 0, None))
    init_key, step_key = jax.random.split(_stage_key(config.seed, 0))
    begin = _begin(config.train, optimizer)
    num_updates = config.train.num_updates

    def start():
      params = jax.jit(denoiser.init)(init_key)
      return devices.replicate(begin(params, num_updates))

    return self._train(
      config,
      name='teacher',
      step_name='train_step',
      start=start,
      template=jax.eval_shape(begin, denoiser.param_shapes(), num_updates),
      num_updates=num_updates,
      update=lambda state, batch: compiled(state, batch, step_key),
      data_seed=_data_seed(config.seed, 0),
      card=card_of(config, self.dataset, config.model.eval_sampling_num_steps),
    )

  def distill(self, weights, parent):
    """Runs all rounds, the first from the teacher's weights.

    Args:
      weights: of the teacher, on all devices.
      parent: path of its checkpoint, for the card.
    """
    config = self.config
    optimizer, denoiser = make_optimizer(config.train), self._denoiser(config)
    step = make_distill_step(denoiser, optimizer, config)
    begin = _begin(config.train, optimizer)
    # Compiled once: teacher, step count and length are arguments.
    compiled = devices.compile_step(step, in_axes=(0, 0, None, 0, None))
    started = devices.compile_start(begin)
    for this in rounds(config.distillation):
      length = jnp.int32(this.num_updates)
      update = functools.partial(
        _distill_update,
        compiled,
        weights,
        jnp.int32(this.num_steps),
        _stage_key(config.seed, this.num_steps),
      )
      weights = self._train(
        config,
        name=this.name,
        num_steps=this.num_steps,
        step_name='distill_step',
        start=functools.partial(started, weights, length),
        template=jax.eval_shape(begin, denoiser.param_shapes(), length),
        num_updates=this.num_updates,
        update=update,
        data_seed=_data_seed(config.seed, this.num_steps),
        card=card_of(config, self.dataset, this.num_steps, parent),
      )
      parent = str(self.workdir / this.name)

  def _denoiser(self, config):
    dataset = self.dataset
    return build_denoiser(
      config.model, dataset.image_shape, dataset.num_classes
    )

  def _train(self, config, *, name, data_seed, num_steps=None, **stage):
    """Returns the weights after one training, in its own folder."""
    stage = Stage(
      name=name,
      followed_by=self._begun_after(num_steps),
      batches=functools.partial(
        batches,
        self.dataset,
        batch_size=config.train.batch_size,
        seed=data_seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
      ),
      train=config.train,
      checkpoints=self._checkpoints(name),
      saver=self.saver,
      log=self.log,
      evaluate=self.evaluate,
      **stage,
    )
    return run(stage)

  def _checkpoints(self, name):
    if not processes.is_main():
      return NoCheckpoints()
    return CheckpointFolder(self.workdir / name / 'checkpoints')

  def _begun_after(self, num_steps):
    """Returns the name of the next round that has begun, or None.

    Be it one that this config leaves out: another length of its rounds may have
    come between.

    Args:
      num_steps: of the round that is asked for; None is the teacher.
    """
    if not processes.is_main():
      return None
    begun = {
      number_of(name): name
      for name in os.listdir(self.workdir)
      if step_folder.steps(self.workdir / name / 'checkpoints')
    }
    begun.pop(None, None)  # the teacher
    later = [n for n in begun if num_steps is None or n < num_steps]
    return begun[max(later)] if later else None


def _begin(train, optimizer):
  """Returns begin(params, num_updates) -> TrainState, of one device."""

  def begin(params, num_updates):
    return create_state(
      params, optimizer, num_updates=num_updates, ema_decay=train.ema_decay
    )

  return begin


def _distill_update(compiled, teacher_params, num_steps, key, state, batch):
  return compiled(state, teacher_params, num_steps, batch, key)


def _stage_key(seed, num_steps):
  """Returns the random key of a training; the teacher's num_steps is 0."""
  return jax.random.fold_in(jax.random.key(seed), num_steps)


def _data_seed(seed, num_steps):
  """Returns the seed of a training's data order, of 32 bits as Grain asks."""
  return int(np.random.SeedSequence([seed, num_steps]).generate_state(1)[0])
