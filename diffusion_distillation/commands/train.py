"""--mode=train: does everything that a config describes."""

import dataclasses
import functools
import json
import pathlib
import sys

import numpy as np

from diffusion_distillation.checkpoints import read_checksum
from diffusion_distillation.checkpoints.compatibility import load_teacher
from diffusion_distillation.checkpoints.store import CheckpointFolder
from diffusion_distillation.commands import seeds
from diffusion_distillation.commands.evaluate import measure_and_report
from diffusion_distillation.evaluation.evaluator import (
  NO_WEIGHTS,
  open_evaluator,
)
from diffusion_distillation.generation import grids
from diffusion_distillation.generation.generator import dismiss
from diffusion_distillation.generation.pairs import FIRST_SEED, pairs_of
from diffusion_distillation.generation.shards import Shards
from diffusion_distillation.report.run import make_generator, report_run
from diffusion_distillation.runtime import processes, run_folder, signals
from diffusion_distillation.runtime.errors import DivergedError, UserError
from diffusion_distillation.runtime.log import NoLog, Progress, RunLog
from diffusion_distillation.training.config import (
  check,
  has_students,
  rounds,
  teacher_num_steps,
)
from diffusion_distillation.training.trainer import Trainer


def train(
  config, workdir, coordinator=None, num_processes=None, process_id=None
):
  """Trains the teacher, distills the students, evaluates and reports.

  What a run folder already has is not done again.

  Args:
    config: ConfigDict with the keys of configs/base.py.
    workdir: path of the run folder.
    coordinator: HOST:PORT of process 0, where several processes train together.
    num_processes: number of processes.
    process_id: number of this process.

  Raises:
    UserError: the config or the run folder cannot be used, or training fails.
    Stopped: the run was asked to stop, and has saved a checkpoint.
  """
  with processes.joined(coordinator, num_processes, process_id):
    protocols = []
    for of_seed, folder in seeds.each(config, workdir):
      if processes.is_main():
        protocols.append(_lead(of_seed, folder))
      else:
        _follow(of_seed, folder)
    if processes.is_main():
      seeds.write_means(config, workdir, protocols)


def _lead(config, workdir):
  """Runs as process 0, which alone reads and writes the run folder.

  Returns:
    What `measure_and_report` returns.
  """
  # This comes before anything is read: another process may be using the folder.
  run_folder.check_run_folder(workdir, config)
  dataset, _ = check(config, open_data=True)
  print(f'{dataset.name}: {dataset.describe()}', file=sys.stderr)
  evaluator = open_evaluator(config, dataset, needed=False)
  if evaluator is None:
    print(f'notice: FID will not be measured. {NO_WEIGHTS}', file=sys.stderr)
  teacher = _teacher(config, dataset, workdir)
  checksum = teacher and teacher.checksum
  data = {
    'images': len(dataset.train),
    'fingerprint': dataset.fingerprint('train'),
  }
  with run_folder.open_run_folder(
    workdir, config, create=True, teacher_checksum=checksum, data=data
  ) as workdir:
    processes.broadcast(json.dumps(config.to_dict()))
    log = RunLog(workdir, config.to_dict())
    evaluate = _evaluation(config, dataset, workdir, evaluator, log)
    try:
      with signals.StopFlag() as stop:
        pairs = functools.partial(_pairs, config, dataset, workdir, teacher)
        trainer = Trainer(
          config, dataset, workdir, teacher, log, evaluate, stop, pairs
        )
        trainer.check()
        processes.broadcast(None)  # all processes have the same config
        run_folder.write_config(
          workdir,
          config,
          rounds=[dataclasses.asdict(each) for each in rounds(config)],
          data=data,
          teacher=teacher and str(teacher.path),
          teacher_checksum=checksum,
        )
        run_folder.forget_failure(workdir)
        trainer.run()
    except DivergedError as error:
      _report_failure(config, dataset, workdir, error)
      raise
    finally:
      log.close()
    protocol = measure_and_report(config, dataset, workdir, evaluator)
    dismiss()
  return protocol


def _teacher(config, dataset, workdir):
  """Returns the Checkpoint of an outside teacher, or None.

  The result is also None if the teacher is gone and all rounds are finished,
  since training then needs no teacher.
  """
  path = config.distillation.teacher_checkpoint_path
  if not has_students(config) or path is None:
    return None
  run = run_folder.read_run(workdir)
  if run is not None and run['teacher'] is not None:
    same = run['config']['distillation']['teacher_checkpoint_path'] == path
    if same and pathlib.Path(run['teacher']).exists():
      path = run['teacher']  # `path` may now have a newer checkpoint
  try:
    return load_teacher(path, config, dataset)
  except UserError:
    if _is_trained(config, workdir):
      return None
    raise


def _is_trained(config, workdir):
  """Returns whether all rounds of a config have all their updates."""
  folder = pathlib.Path(workdir).absolute()
  cards = [
    CheckpointFolder(folder / each.name / 'checkpoints').newest_card()
    for each in rounds(config)
  ]
  return all(
    card is not None and card.updates >= each.num_updates
    for card, each in zip(cards, rounds(config), strict=True)
  )


def _follow(config, workdir):
  """Runs as a process other than 0: trains and draws as process 0 directs."""
  dataset, _ = check(config, open_data=True)
  run = processes.broadcast(None)
  run_folder.check_same(json.loads(run), config)
  processes.broadcast(None)
  generator = make_generator(config, dataset)

  def evaluate(weights, card, name, step):
    del weights, card, name, step
    generator.follow()
    return {}

  def pairs(weights, count):
    del weights, count
    generator.follow()
    return pairs_of(dataset, processes.broadcast(None))

  workdir = pathlib.Path(workdir)
  with signals.StopFlag() as stop:
    Trainer(
      config, dataset, workdir, None, NoLog(), evaluate, stop, pairs
    ).run()
  generator.follow()


def _pairs(config, dataset, workdir, teacher, weights, count):
  """Returns a Dataset of images that the teacher draws from seeds.

  Args:
    config: checked config of the run.
    dataset: its Dataset.
    workdir: absolute path of the run folder, which keeps them.
    teacher: Checkpoint of an outside teacher, or None.
    weights: weights of the teacher.
    count: number of images.
  """
  num_steps = teacher_num_steps(config)
  generator = make_generator(config, dataset)
  checksum = teacher.checksum if teacher else read_checksum(workdir / 'teacher')
  identity = {'teacher': checksum, 'sampler': 'ddim', 'num_steps': num_steps}
  shards = Shards(
    workdir / 'pairs' / f'{count}',
    identity,
    count,
    generator.batch_size,
    FIRST_SEED,
  )
  shards.draw(
    lambda: generator.drawer(weights, 'ddim', count),
    num_steps,
    Progress('pairs', count, 'images'),
  )
  dismiss()
  images = np.concatenate(list(shards.images()))
  return pairs_of(dataset, processes.broadcast(images))


def _evaluation(config, dataset, workdir, evaluator, log):
  """Returns (weights, card, name, step) -> metrics, called in training."""

  @functools.cache
  def generator():
    # One generator serves all rounds: students have the teacher's network.
    return make_generator(config, dataset)

  def evaluate(weights, card, name, step):
    num_images = config.eval.num_samples
    if evaluator is None:
      num_images = min(num_images, grids.GRID_IMAGES)
    images = generator().images(
      weights,
      np.arange(num_images),
      num_steps=card.num_steps,
      sampler=card.sampler,
    )
    dismiss()
    path = workdir / 'samples' / f'{name}_{step:07}.png'
    grids.save_grid(images, path)
    log.image(name, step, 'samples', path)
    if evaluator is None:
      return {}
    batch_size = config.eval.batch_size
    batches = (
      images[first : first + batch_size]
      for first in range(0, num_images, batch_size)
    )
    return evaluator.measure(batches, num_images)

  return evaluate


def _report_failure(config, dataset, workdir, error):
  """Records why training failed, and writes the report of what is finished."""
  try:
    run_folder.record_failure(workdir, error)
    report_run(config, dataset, workdir)
  except (UserError, OSError) as report_error:
    # The caller shows the failure of the training, which matters more.
    print(f'no report: {report_error}', file=sys.stderr)
