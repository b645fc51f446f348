"""What main.py can be asked to do: one function for each mode."""

import contextlib
import functools
import inspect
import json
import pathlib
import sys

import numpy as np

from diffusion_distillation import single
from diffusion_distillation.checkpoints.card import card_of
from diffusion_distillation.checkpoints.compatibility import find_teacher
from diffusion_distillation.evaluation.classifier import NO_WEIGHTS
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.evaluation.statistics import batches_of
from diffusion_distillation.generation.generator import Generator, dismiss
from diffusion_distillation.report import plots
from diffusion_distillation.report.report import summary, write_report
from diffusion_distillation.report.run import draw_grids, evaluate_run
from diffusion_distillation.runtime import (
  allocator,
  devices,
  failure,
  processes,
)
from diffusion_distillation.runtime.errors import DivergedError, UserError
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.runtime.run_folder import (
  check_run_folder,
  check_same,
  open_run_folder,
  teacher_of,
)
from diffusion_distillation.training import plan as plans
from diffusion_distillation.training.config import check
from diffusion_distillation.training.followers import NoLog
from diffusion_distillation.training.trainer import Trainer


def run(mode, options):
  """Does what a mode does.

  Args:
    mode: one of MODES.
    options: mapping with the values of its arguments; the rest is not used.
  """
  allocator.keep_freed_memory()
  function, config = MODES[mode], options.get('config')
  if config is not None:
    devices.use_compilation_cache(config.get('compilation_cache_dir'))
  wanted = inspect.signature(function).parameters
  with _joined(mode, options):
    function(**{name: options[name] for name in wanted})


def _joined(mode, options):
  """Returns a context of the processes that training may have.

  Raises:
    UserError: there are to be several, and the mode is of one.
  """
  names = inspect.signature(processes.joined).parameters
  given = {name: options[name] for name in names}
  if mode == 'train':
    return processes.joined(**given)
  if any(value is not None for value in given.values()):
    raise UserError(
      f'--mode={mode} is of one process; --coordinator, --num_processes and '
      '--process_id are of --mode=train'
    )
  return contextlib.nullcontext()


def train(config, workdir):
  """Trains, distills, evaluates and reports: all that the config says."""
  config = single.given(config, '--config=configs/NAME.py')
  workdir = single.given(workdir, '--workdir=DIR')
  if processes.is_main():
    check_run_folder(workdir, config)
  dataset, denoiser = check(config, open_data=True)
  if not processes.is_main():
    _follow(config, dataset, workdir)
    return
  evaluator = open_evaluator(config, dataset, needed=False)
  if evaluator is None:
    print(f'notice: FID will not be measured. {NO_WEIGHTS}', file=sys.stderr)
  teacher = teacher_of(workdir)
  if teacher is None and config.distillation is not None:
    teacher = config.distillation.teacher_checkpoint_path
  teacher = find_teacher(teacher, config, denoiser)
  with open_run_folder(
    workdir, config, teacher=teacher, create=True
  ) as workdir:
    begun = {'teacher': teacher, 'config': json.dumps(config.to_dict())}
    processes.broadcast(begun)
    evaluate = _evaluation(config, dataset, workdir, evaluator)
    log = RunLog(workdir)
    failure.forget(workdir)
    try:
      Trainer(config, dataset, workdir, teacher, log, evaluate).run()
    except DivergedError as error:
      try:
        failure.record(workdir, error)
        write_report(config, dataset, workdir)
      except (UserError, OSError) as report_error:
        print(f'no report: {report_error}', file=sys.stderr)
      raise
    finally:
      log.close()
    _finish(config, dataset, workdir, evaluator)
    dismiss()


def _evaluation(config, dataset, workdir, evaluator):
  """Returns (weights, card, name) -> metrics, for while a run trains."""

  @functools.cache
  def generator():
    # Of the students' network and sampling, which are the teacher's, too.
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


def _follow(config, dataset, workdir):
  """Trains and draws with process 0, which reads and writes for all."""
  begun = processes.broadcast(None)
  check_same(json.loads(begun['config']), config)
  generator = Generator(card_of(config, dataset), config.eval.batch_size)

  def evaluate(weights, card, name):
    del weights, card, name
    generator.follow()
    return {}

  workdir = pathlib.Path(workdir)
  teacher = begun['teacher']
  Trainer(config, dataset, workdir, teacher, NoLog(), evaluate).run()
  generator.follow()


def evaluate(config, workdir, checkpoint, images, sampler, num_steps):
  """Measures what is not measured yet of a finished run.

  Or one checkpoint, or any images, and prints their figures as JSON.
  """
  if checkpoint and images:
    raise UserError('give --checkpoint or --images, not both')
  if checkpoint or images:
    if checkpoint:
      figures = single.evaluate_checkpoint(
        checkpoint, config, sampler, num_steps
      )
    else:
      figures = single.evaluate_images(images, config)
    print(json.dumps(figures, indent=2))
    return
  with _finished(config, workdir) as (dataset, workdir):
    _finish(config, dataset, workdir, open_evaluator(config, dataset))


def report(config, workdir):
  """Writes the report of a finished run, from what was measured."""
  with _finished(config, workdir, lock=False) as (dataset, workdir):
    _show_report(write_report(config, dataset, workdir), workdir)


def plan(config):
  """Prints what a config will do and cost; runs nothing."""
  _, denoiser = check(single.given(config, '--config=configs/NAME.py'))
  print(plans.plan(config, denoiser))


@contextlib.contextmanager
def _finished(config, workdir, lock=True):
  """Gives the Dataset and the folder of a run that exists."""
  dataset, _ = check(single.given(config, '--config=configs/NAME.py'))
  workdir = single.given(workdir, '--workdir=DIR')
  with open_run_folder(workdir, config, lock=lock) as workdir:
    yield dataset, workdir


def _finish(config, dataset, workdir, evaluator):
  """Measures a finished run, or draws its samples, and reports."""
  if evaluator is None:
    draw_grids(config, dataset, workdir)
    protocol = None
  else:
    evaluate_run(config, dataset, workdir, evaluator)
    protocol = evaluator.protocol(config.eval.num_samples)
  _show_report(write_report(config, dataset, workdir, protocol), workdir)


def _show_report(report, workdir):
  print(f'{summary(report)}report: {workdir / "report" / "index.html"}')


MODES = {
  'train': train,
  'sample': single.sample,
  'evaluate': evaluate,
  'report': report,
  'plan': plan,
  'export': single.export,
}
