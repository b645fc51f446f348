"""All trainings of a run: one loop over its rounds."""

import dataclasses
import functools
import math
import pathlib
import sys
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_distillation.checkpoints import Checkpoint
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.checkpoints.store import (
  CheckpointFolder,
  NoCheckpoints,
  Saver,
)
from diffusion_distillation.data.batches import batches
from diffusion_distillation.data.dataset import Dataset
from diffusion_distillation.networks.denoiser import build_denoiser
from diffusion_distillation.runtime import (
  devices,
  processes,
  run_folder,
  signals,
)
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.training.config import rounds, trainings
from diffusion_distillation.training.loop import Stage, train_stage
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.plan import update_flops
from diffusion_distillation.training.state import create_state
from diffusion_distillation.training.step import make_step

# What `Training.method` is where the config names no methods.
_NO_METHODS = ('teacher', 'student')


@dataclasses.dataclass(frozen=True)
class Trainer:
  """All trainings of a run, and what they share.

  Attributes:
    config: checked config of the run.
    dataset: Dataset of the config.
    workdir: absolute path of the run folder.
    teacher: the Checkpoint to distill; None trains the teacher first. If there
      are several processes, only process 0 has it.
    log: a RunLog.
    evaluate: (weights, card, name of the round, updates made) -> metrics, for
      `train.eval_every_steps`.
    stop: a StopFlag.
    pairs: (weights of the teacher, number) -> Dataset of images that it draws
      from seeds; None where no objective trains on them.
    saver: writes the checkpoints; the last one of a round is written while the
      next round begins.
  """

  config: ConfigDict
  dataset: Dataset
  workdir: pathlib.Path
  teacher: Checkpoint | None
  log: RunLog
  evaluate: Callable
  stop: signals.StopFlag
  pairs: Callable | None = None
  saver: Saver = dataclasses.field(default_factory=Saver)

  def check(self):
    """Checks that the checkpoints in the run folder fit this config.

    Raises:
      UserError: a round is missing although another was distilled from it; the
        length of such a round has changed since then; a round has more updates
        than the config asks for; a method that was left out for a while has
        other keys now; or the number of classes has changed.
    """
    if not processes.is_main():
      return
    followers = {}  # name of a round -> name of one that was distilled from it
    # This also finds rounds that the config leaves out after a change of
    # `distillation.end_num_steps`.
    for folder in sorted(self.workdir.glob('*/checkpoints')):
      card = CheckpointFolder(folder).newest_card()
      self._check_classes(card, folder.parent)
      if card is not None and card.parent is not None:
        # Only the name is compared, since a run folder may be moved.
        followers[pathlib.PurePath(card.parent).name] = folder.parent.name
    for each in rounds(self.config):
      later = followers.get(each.name)
      if later is not None and self._checkpoints(each).newest() is None:
        raise UserError(
          f'{self.workdir / each.name} has no checkpoint, but {later} was '
          f'distilled from it; put {each.name} back, or remove {later} and '
          'what follows it to train them again'
        )
    for training in trainings(self.config):
      for each in training.objective.rounds:
        card = self._checkpoints(each).newest_card()
        _check_length(each, card, followers.get(each.name))
        _check_method(training, each, card)

  def run(self):
    """Trains what is not trained yet, round after round; see `check`.

    Raises:
      Stopped: the process was asked to stop; everything is saved.
      UserError: as in `loop.train_stage`; or a teacher that was trained
        elsewhere is needed, and gone.
    """
    # Parents of the rounds to come.
    parents = [each.parent for each in rounds(self.config)]
    done = {'teacher': self._outside_teacher()}  # round -> weights on devices
    with self.saver:
      for training in trainings(self.config):
        compiled = self._compile(training)
        for each in training.objective.rounds:
          weights = done.get(parents.pop(0))
          numbers = _numbers(each, training)
          stage = self._stage(training, compiled, each, numbers, weights)
          done[each.name] = train_stage(stage)
          done = {name: w for name, w in done.items() if name in parents}
    if self.stop.requested:  # while the last checkpoint was being written
      raise signals.Stopped('after the last update')

  def _check_classes(self, card, folder):
    """Raises UserError if the number of classes differs from that of a card."""
    classes = self.dataset.num_classes
    if card is not None and card.num_classes != classes:
      raise UserError(
        f'{folder} was trained with {card.num_classes} classes, and the data '
        f'set has {classes} now; give the same labels, or choose another '
        '--workdir'
      )

  def _outside_teacher(self):
    """Returns a given teacher's weights on all devices, or None."""
    weights = None if self.teacher is None else self.teacher.weights
    weights = processes.broadcast(weights)
    return None if weights is None else devices.replicate(weights)

  def _denoiser(self, training):
    dataset = self.dataset
    return build_denoiser(
      training.config.model, dataset.image_shape, dataset.num_classes
    )

  def _compile(self, training):
    """Returns the compiled functions of a Training and the shape of its state.

    They are compiled once, when they are first called: weights, step counts and
    lengths are arguments.
    """
    train, denoiser = training.config.train, self._denoiser(training)
    optimizer = make_optimizer(train)
    step = make_step(
      training.step_name, training.objective, denoiser, optimizer, train
    )

    def begin(weights, num_updates):
      return create_state(
        weights,
        optimizer,
        num_updates=num_updates,
        ema_decay=train.ema_decay,
        has_target=training.objective.target_decay is not None,
      )

    return _Compiled(
      step=devices.compile_step(step, in_axes=(0, 0, None, 0, None)),
      begin=devices.compile_start(begin),
      template=jax.eval_shape(begin, denoiser.param_shapes(), jnp.int32(1)),
    )

  def _stage(self, training, compiled, each, numbers, weights):
    """Returns the Stage of one Round, which starts from its parent's weights.

    Args:
      training: the Training that has the round.
      compiled: what `_compile` returns for the Training.
      each: the Round.
      numbers: what `_numbers` returns for the Round.
      weights: weights of its parent, on all devices; None without a parent.
    """
    config, train = training.config, training.config.train
    key = _round_key(config.seed, numbers)
    if each.parent is None:
      init_key, key = jax.random.split(key)
    teacher = weights if training.objective.needs_teacher else None
    num_steps = jnp.int32(each.num_steps)

    def start():
      _warn_of_short_training(each, train)
      first = weights
      if each.parent is None:
        random = jax.jit(self._denoiser(training).init)(init_key)
        first = devices.replicate(random)
      return compiled.begin(first, jnp.int32(each.num_updates))

    def update(state, batch):
      return compiled.step(state, teacher, num_steps, batch, key)

    def read(start):
      dataset = self.dataset
      if training.objective.num_pairs:
        self.saver.wait()  # the teacher's checkpoint may be being written
        host = devices.unreplicate(weights)
        with self.stop.disarmed():  # pairs that are drawn are kept
          dataset = self.pairs(host, training.objective.num_pairs)
      return batches(
        dataset,
        batch_size=train.batch_size,
        seed=_data_seed(config.seed, numbers),
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
      )

    def no_teacher(*_):
      raise UserError(
        f'{each.name} is not finished, and needs its teacher, which is gone; '
        'set distillation.teacher_checkpoint_path to where it is'
      )

    if each.parent is not None and weights is None:
      start = update = no_teacher

    return Stage(
      name=each.name,
      step_name=training.step_name,
      start=start,
      template=compiled.template,
      num_updates=each.num_updates,
      flops=functools.partial(update_flops, training, self._denoiser(training)),
      update=update,
      batches=read,
      train=train,
      checkpoints=self._checkpoints(each),
      card=self._card(training, each),
      saver=self.saver,
      log=self.log,
      evaluate=self.evaluate,
      stop=self.stop,
    )

  def _checkpoints(self, each):
    if not processes.is_main():
      return NoCheckpoints()
    return CheckpointFolder(self.workdir / each.name / 'checkpoints')

  def _card(self, training, each):
    parent, checksum = None, None
    if each.parent is not None:
      parent = str(self.workdir / each.parent)
      if each.parent == 'teacher' and self.teacher is not None:
        parent, checksum = str(self.teacher.path), self.teacher.checksum
    return make_card(
      training.config,
      self.dataset,
      num_steps=each.num_steps,
      sampler=each.sampler,
      objective=each.objective,
      parent=parent,
      parent_checksum=checksum,
    )


@dataclasses.dataclass(frozen=True)
class _Compiled:
  """The compiled functions of a Training; see `Trainer._compile`."""

  step: Callable
  begin: Callable
  template: object


def _warn_of_short_training(each, train):
  """Prints a warning if a training is too short for its EMA decay."""
  horizon = round(1 / (1 - train.ema_decay))
  if each.num_updates < horizon and processes.is_main():
    print(
      f'warning: {each.name} has {each.num_updates} updates, fewer than the '
      f'{horizon:,} that train.ema_decay={train.ema_decay} averages '
      'over; its EMA, which is sampled and distilled, averages over about the '
      f'last {math.ceil((each.num_updates + 9) / 9)} instead',
      file=sys.stderr,
    )


def _check_length(each, card, later):
  """Checks that the updates made are the beginning of a round's training.

  Args:
    each: the Round.
    card: Card of its newest checkpoint, or None.
    later: name of a round that was distilled from it, or None.

  Raises:
    UserError: there are too many updates, or the length of the training has
      changed since `later` began.
  """
  if card is None:
    return
  if card.updates > each.num_updates:
    raise UserError(
      f'{each.name} has had {card.updates} updates, more than the '
      f'{each.num_updates} of the config; ask for at least as many, or choose '
      'another --workdir'
    )
  if later and card.num_updates != each.num_updates:
    raise UserError(
      f'{later} was distilled from {each.name} after {card.num_updates} '
      f'updates, which cannot become {each.num_updates}; choose another '
      '--workdir'
    )


def _check_method(training, each, card):
  """Raises UserError if the card of a Round has another config of its method.

  config.json only has the methods of the newest training.
  """
  if card is None or card.config is None or training.method in _NO_METHODS:
    return
  different = run_folder.differences(card.config, training.config)
  if different:
    raise UserError(
      f'{each.name} was trained with another config '
      f'({"; ".join(different)}); give the method another name, or remove '
      'what it has trained'
    )


def _numbers(each, training):
  """Returns numbers that make the randomness of a Round its own.

  These are its step count, or 0 for a teacher; the number of earlier rounds of
  its Training with the same count; and one for the name of its method. Zeros at
  the end are left out. The other methods of a run make no difference.
  """
  every = training.objective.rounds
  counts = [0 if r.parent is None else r.num_steps for r in every]
  index = every.index(each)
  numbers = [counts[index], counts[:index].count(counts[index])]
  if training.method not in _NO_METHODS:
    numbers.append(zlib.crc32(training.method.encode()))
  while len(numbers) > 1 and not numbers[-1]:
    numbers.pop()
  return tuple(numbers)


def _round_key(seed, numbers):
  """Returns the random key of a round."""
  return functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed))


def _data_seed(seed, numbers):
  """Returns the seed of a round's data order, 32 bits as Grain requires."""
  return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])
