"""--mode=evaluate: measures a run, a checkpoint, or any images."""

import json

from diffusion_distillation.commands import inputs, seeds
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.generation.image_files import ImageFiles
from diffusion_distillation.report import run as runs
from diffusion_distillation.report.report import show
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import open_run_folder
from diffusion_distillation.training.config import check


def evaluate(
  config=None,
  workdir=None,
  checkpoint=None,
  images=None,
  sampler=None,
  grid=None,
  num_steps=None,
):
  """Measures a finished run, or one checkpoint, or a set of images.

  For a run, only the rows that are not measured yet are measured, and the
  report is written. The metrics of a checkpoint or of images are printed as
  JSON.

  Args:
    config: config of the run or of the reference data; a checkpoint of this
      program needs none.
    workdir: path of a run folder.
    checkpoint: path of a checkpoint, instead of a run.
    images: path of images, instead of a run.
    sampler: sampler of the checkpoint; None takes the checkpoint's own.
    grid: time grid of the checkpoint; None takes the sampler's.
    num_steps: sampling steps of the checkpoint; None takes its own.

  Raises:
    UserError: it is not clear what to measure, or it cannot be measured.
  """
  if sum(map(bool, (workdir, checkpoint, images))) != 1:
    raise UserError(
      '--mode=evaluate needs one of --workdir=DIR, --checkpoint=PATH and '
      '--images=PATH'
    )
  if checkpoint is None and (sampler or grid or num_steps):
    raise UserError(
      '--sampler, --grid and --num_steps need --checkpoint; for a run, set '
      '--config.eval.samplers and --config.eval.num_steps'
    )
  if checkpoint is None and config is None:
    raise UserError('--mode=evaluate needs --config=FILE.py')
  if workdir:
    protocols = [
      _evaluate_run(of_seed, folder)
      for of_seed, folder in seeds.each(config, workdir)
    ]
    seeds.write_means(config, workdir, protocols)
    return
  if checkpoint:
    metrics = _evaluate_checkpoint(
      checkpoint, config, sampler=sampler, num_steps=num_steps, grid=grid
    )
  else:
    metrics = _evaluate_images(images, config)
  print(json.dumps(metrics, indent=2))


def measure_and_report(config, dataset, workdir, evaluator):
  """Measures the missing rows of a finished run, and writes its report.

  Args:
    config: checked config of the run.
    dataset: Dataset of the config.
    workdir: absolute path of the run folder.
    evaluator: an Evaluator; None draws pictures of samples instead.

  Returns:
    How the figures were measured; None without an Evaluator.
  """
  protocol = None
  if evaluator is None:
    runs.draw_grids(config, dataset, workdir)
  else:
    protocol = runs.evaluate_run(config, dataset, workdir, evaluator)
  show(runs.report_run(config, dataset, workdir, protocol), workdir)
  return protocol


def _evaluate_run(config, workdir):
  dataset, _ = check(config)
  with open_run_folder(workdir, config) as workdir:
    inputs.check_rounds(config, workdir)
    evaluator = open_evaluator(config, dataset)
    return measure_and_report(config, dataset, workdir, evaluator)


def _evaluate_checkpoint(path, config, **sampling):
  """Returns the metrics of a checkpoint, and how they were measured."""
  checkpoint = inputs.load_checkpoint(path, config)
  card = checkpoint.card
  sampler, num_steps = inputs.sampling_of(card, **sampling)
  config, dataset = inputs.data_of(card, path, config)
  return runs.evaluate_checkpoint(
    config,
    checkpoint,
    open_evaluator(config, dataset),
    sampler=sampler,
    num_steps=num_steps,
  )


def _evaluate_images(path, config):
  """Returns the metrics of images, and how they were measured."""
  dataset, _ = check(config)
  evaluator = open_evaluator(config, dataset)
  images = ImageFiles(path, dataset.image_shape)
  protocol = evaluator.protocol(images.num_images, f'all of {path}')
  return {'metric': protocol, **evaluator.measure(images, images.num_images)}
