"""--mode=train: everything that a config describes."""

import functools
import json
import pathlib
import sys

import numpy as np

from diffusion_distillation.checkpoints.card import card_of
from diffusion_distillation.checkpoints.compatibility import find_teacher
from diffusion_distillation.commands.evaluate import measure_and_report
from diffusion_distillation.evaluation.classifier import NO_WEIGHTS
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.evaluation.statistics import batches_of
from diffusion_distillation.generation.generator import Generator, dismiss
from diffusion_distillation.report import plots
from diffusion_distillation.report.report import write_report
from diffusion_distillation.runtime import failure, processes
from diffusion_distillation.runtime.errors import DivergedError, UserError
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.runtime.run_folder import (
  check_run_folder,
  check_same,
  open_run_folder,
  teacher_of,
)
from diffusion_distillation.training.config import check
from diffusion_distillation.training.followers import NoLog
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
    num_processes: how many they are.
    process_id: number of this process.

  Raises:
    UserError: the config or the run folder cannot be used, or training fails.
    Stopped: the run was asked to stop, and has saved a checkpoint.
  """
  with processes.joined(coordinator, num_processes, process_id):
    if processes.is_main():
      _lead(config, workdir)
    else:
      _follow(config, workdir)


def _lead(config, workdir):
  """Runs as process 0, which alone reads and writes the run folder."""
  # Another process may be at work there: that is told before anything is read.
  check_run_folder(workdir, config)
  dataset, denoiser = check(config, open_data=True)
  evaluator = open_evaluator(config, dataset, needed=False)
  if evaluator is None:
    print(f'notice: FID will not be measured. {NO_WEIGHTS}', file=sys.stderr)
  teacher = teacher_of(workdir) or config.distillation.teacher_checkpoint_path
  teacher = find_teacher(teacher, config, denoiser)
  with open_run_folder(
    workdir, config, teacher=teacher, create=True
  ) as workdir:
    processes.broadcast(
      {'teacher': teacher, 'config': json.dumps(config.to_dict())}
    )
    failure.forget(workdir)
    log = RunLog(workdir)
    evaluate = _evaluation(config, dataset, workdir, evaluator)
    try:
      Trainer(config, dataset, workdir, teacher, log, evaluate).run()
    except DivergedError as error:
      _report_failure(config, dataset, workdir, error)
      raise
    finally:
      log.close()
    measure_and_report(config, dataset, workdir, evaluator)
    dismiss()


def _follow(config, workdir):
  """Runs as another process than 0: trains and draws what process 0 says."""
  dataset, _ = check(config, open_data=True)
  run = processes.broadcast(None)
  check_same(json.loads(run['config']), config)
  generator = Generator(card_of(config, dataset), config.eval.batch_size)

  def evaluate(weights, card, name):
    del weights, card, name
    generator.follow()
    return {}

  workdir = pathlib.Path(workdir)
  Trainer(config, dataset, workdir, run['teacher'], NoLog(), evaluate).run()
  generator.follow()


def _evaluation(config, dataset, workdir, evaluator):
  """Returns (weights, card, name) -> metrics, called during training."""

  @functools.cache
  def generator():
    # The students have the teacher's network, so that one generator does.
    return Generator(card_of(config, dataset), config.eval.batch_size)

  def evaluate(weights, card, name):
    num_images = config.eval.num_samples
    if evaluator is None:
      num_images = min(num_images, plots.GRID_IMAGES)
    images = generator().images(
      weights, np.arange(num_images), card['num_steps'], card['sampler']
    )
    dismiss()
    plots.save_grid(images, workdir / 'samples' / f'{name}.png')
    if evaluator is None:
      return {}
    return evaluator.measure(batches_of(images), num_images)

  return evaluate


def _report_failure(config, dataset, workdir, error):
  """Records why training failed, and writes the report of what there is."""
  try:
    failure.record(workdir, error)
    write_report(config, dataset, workdir)
  except (UserError, OSError) as report_error:
    # The failure of the training is the one to show.
    print(f'no report: {report_error}', file=sys.stderr)
