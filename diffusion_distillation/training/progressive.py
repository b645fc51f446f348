"""Algorithm 2: the teacher, then round after round of halving its steps."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation.core.parameterization import canonical
from diffusion_distillation.data.dataset import Dataset
from diffusion_distillation.data.pipeline import batches
from diffusion_distillation.errors import UserError
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.training import checkpoints, replicas
from diffusion_distillation.training.cards import card_of
from diffusion_distillation.training.log import RunLog
from diffusion_distillation.training.loop import Stage, run
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.settings import rounds, teacher_config
from diffusion_distillation.training.state import create_state
from diffusion_distillation.training.student import make_distill_step
from diffusion_distillation.training.teacher import make_train_step


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
  """

  config: ConfigDict
  dataset: Dataset
  workdir: pathlib.Path
  teacher: str | None
  log: RunLog
  evaluate: Callable

  def run(self):
    """Trains what is not trained yet: the teacher, or all of Algorithm 2."""
    if self.config.distillation is None:
      self.train_teacher(self.config)
    elif self.teacher is None:
      weights = self.train_teacher(teacher_config(self.config))
      self.distill(weights, str(self.workdir / 'teacher'))
    else:
      teacher = checkpoints.load(self.teacher, config=self.config)
      weights = teacher.weights
      self.distill(weights, self.teacher)

  def train_teacher(self, config):
    """Returns the teacher's weights, trained as `config` says."""
    optimizer, denoiser = make_optimizer(config.train), self._denoiser(config)
    step = make_train_step(denoiser, optimizer, config)
    compiled = replicas.compile_step(step, in_axes=(0, 0, None))
    init_key, step_key = jax.random.split(_stage_key(config.seed, 0))
    state = create_state(
      jax.jit(denoiser.init)(init_key),
      optimizer,
      num_updates=config.train.num_updates,
      ema_decay=config.train.ema_decay,
    )
    return self._train(
      config,
      state,
      name='teacher',
      step_name='train_step',
      update=lambda state, batch: compiled(state, batch, step_key),
      data_seed=_data_seed(config.seed, 0),
      card=card_of(config, self.dataset, config.model.eval_sampling_num_steps),
    )

  def distill(self, weights, parent):
    """Runs all rounds, the first from the teacher's weights.

    Args:
      weights: of the teacher.
      parent: path of its checkpoint, for the card.
    """
    config = self.config
    optimizer = make_optimizer(config.train)
    step = make_distill_step(self._denoiser(config), optimizer, config)
    # Compiled once: teacher, step count and length are arguments.
    compiled = replicas.compile_step(step, in_axes=(0, 0, None, 0, None))
    for this in rounds(config.distillation):
      state = create_state(
        weights,
        optimizer,
        num_updates=this.num_updates,
        ema_decay=config.train.ema_decay,
      )
      update = functools.partial(
        _distill_update,
        compiled,
        replicas.replicate(weights),
        jnp.int32(this.num_steps),
        _stage_key(config.seed, this.num_steps),
      )
      weights = self._train(
        config,
        state,
        name=this.name,
        step_name='distill_step',
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

  def _train(self, config, state, *, name, data_seed, card, **step):
    """Returns the weights after one training, in its own folder."""
    folder = self.workdir / name / 'checkpoints'
    with checkpoints.CheckpointFolder(folder) as checkpoint_folder:
      stage = Stage(
        name=name,
        batches=functools.partial(
          batches,
          self.dataset,
          batch_size=config.train.batch_size,
          seed=data_seed,
          process_index=jax.process_index(),
          process_count=jax.process_count(),
        ),
        train=config.train,
        checkpoints=checkpoint_folder,
        card=card,
        log=self.log,
        evaluate=self.evaluate,
        **step,
      )
      return run(stage, jax.tree.map(np.asarray, state))


def find_teacher(path, config, denoiser):
  """Returns the step folder of the checkpoint to distill, once it fits.

  Args:
    path: of the checkpoint, or None.
    config: of the students, checked.
    denoiser: theirs.

  Raises:
    UserError: there is none at that path, or it is another network's.
  """
  if path is None:
    return None
  teacher = checkpoints.load(path, denoiser.param_shapes(), config)
  training = teacher.card['training']
  if training and training['updates'] < training['num_updates']:
    raise UserError(
      f'the teacher {teacher.path} has had {training["updates"]} of '
      f'{training["num_updates"]} updates; finish its training first'
    )
  num_steps = teacher.card['num_steps']
  start = config.distillation.start_num_steps
  if teacher.card['parent'] is not None and num_steps != start:
    raise UserError(
      f'the teacher {teacher.path} was distilled to {num_steps} steps and '
      f'knows no others; set distillation.start_num_steps={num_steps}'
    )
  model = config.model.to_dict()
  trained = (teacher.card['config'] or {}).get('model', {})
  # What the shapes of the weights do not tell.
  theirs = {
    'mean_type': teacher.card['mean_type'],
    'num_classes': teacher.card['num_classes'],
    'train_logsnr_schedule': trained.get('train_logsnr_schedule'),
    **teacher.card['args'],
  }
  ours = {
    'mean_type': canonical(model['mean_type']),
    'num_classes': denoiser.network.num_classes,
    'train_logsnr_schedule': model['train_logsnr_schedule'],
    **model['args'],
  }
  for name, value in json.loads(json.dumps(ours)).items():
    if name not in ('dropout', 'dtype', 'remat') and theirs.get(name) != value:
      raise UserError(
        f'the teacher {teacher.path} has {name} {theirs.get(name)}, the config '
        f'{value}; they must agree'
      )
  return str(teacher.path)


def _distill_update(compiled, teacher_params, num_steps, key, state, batch):
  return compiled(state, teacher_params, num_steps, batch, key)


def _stage_key(seed, num_steps):
  """Returns the random key of a training; the teacher's num_steps is 0."""
  return jax.random.fold_in(jax.random.key(seed), num_steps)


def _data_seed(seed, num_steps):
  """Returns the seed of a training's data order, of 32 bits as Grain asks."""
  return int(np.random.SeedSequence([seed, num_steps]).generate_state(1)[0])
