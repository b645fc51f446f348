"""What main.py can be asked to do: one function for each mode."""

import functools
import json
import sys

from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.errors import UserError
from diffusion_distillation.evaluation import plots
from diffusion_distillation.evaluation.evaluate import (
  Evaluator,
  evaluate_run,
)
from diffusion_distillation.evaluation.generate import Generator
from diffusion_distillation.evaluation.report import write_report
from diffusion_distillation.evaluation.sample_files import (
  parse_seeds,
  write_samples,
)
from diffusion_distillation.training import checkpoints
from diffusion_distillation.training import plan as plans
from diffusion_distillation.training.cards import card_of
from diffusion_distillation.training.log import RunLog
from diffusion_distillation.training.progressive import (
  Trainer,
  find_teacher,
)
from diffusion_distillation.training.run_folder import (
  open_run_folder,
  teacher_of,
)
from diffusion_distillation.training.settings import check


def train(config, workdir):
  """Trains, distills, evaluates and reports: all that the config says."""
  dataset, denoiser = check(_given(config, '--config=configs/NAME.py'))
  _open_data(dataset)
  evaluator = Evaluator(dataset, config.eval.num_samples)
  workdir = _given(workdir, '--workdir=DIR')
  teacher = teacher_of(workdir)
  if teacher is None and config.distillation is not None:
    teacher = config.distillation.teacher_checkpoint_path
  teacher = find_teacher(teacher, config, denoiser)
  workdir = open_run_folder(workdir, config, teacher=teacher, create=True)

  @functools.cache
  def generator():
    # Of the students' network and sampling, which are the teacher's, too.
    return Generator(card_of(config, dataset), config.eval.batch_size)

  def evaluate(weights, card, name):
    images = generator().images(
      weights, evaluator.seeds, card['num_steps'], card['sampler']
    )
    plots.save_grid(images, workdir / 'samples' / f'{name}.png')
    return evaluator.measure(images)

  log = RunLog(workdir)
  try:
    Trainer(config, dataset, workdir, teacher, log, evaluate).run()
  finally:
    log.close()
  evaluate_run(config, dataset, workdir)
  _show_report(config, dataset, workdir)


def evaluate(config, workdir):
  """Measures all rounds of a finished run anew."""
  dataset, workdir = _finished(config, workdir)
  evaluate_run(config, dataset, workdir, anew=True)
  _show_report(config, dataset, workdir)


def report(config, workdir):
  """Writes the report of a finished run, from what was measured."""
  dataset, workdir = _finished(config, workdir)
  _show_report(config, dataset, workdir)


def plan(config):
  """Prints what a config will do and cost; runs nothing."""
  _, denoiser = check(_given(config, '--config=configs/NAME.py'))
  print(plans.plan(config, denoiser))


def sample(checkpoint, seeds, out, num_steps):
  """Draws samples of a checkpoint into `out`."""
  path = _given(checkpoint, '--checkpoint=PATH')
  seeds, out = parse_seeds(seeds), _given(out, '--out=FILE.npz or --out=FOLDER')
  _warn_of_steps(path, num_steps)
  write_samples(path, seeds=seeds, out=out, num_steps=num_steps)
  print(f'wrote {len(seeds)} samples to {out}')


def evaluate_checkpoint(path, num_steps):
  """Prints the figures of one checkpoint, by its own sampler, as JSON."""
  checkpoint = checkpoints.load(path)
  card = checkpoint.card
  _warn_of_steps(path, num_steps)
  settings = card['config']['eval']
  dataset = load_dataset(card['dataset']['name'], card['dataset']['args'])
  _open_data(dataset)
  evaluator = Evaluator(dataset, settings['num_samples'])
  num_steps = card['num_steps'] if num_steps is None else num_steps
  images = Generator(card, settings['batch_size']).images(
    checkpoint.weights, evaluator.seeds, num_steps, card['sampler']
  )
  figures = {'num_steps': num_steps, **evaluator.measure(images)}
  print(json.dumps({'metric': evaluator.description, **figures}, indent=2))


def _given(value, flag):
  if not value:
    raise UserError(f'this mode needs {flag}')
  return value


def _open_data(dataset):
  """Opens what a run trains on, before anything is made.

  Raises:
    UserError: it is not there.
  """
  try:
    len(dataset.train)
  except ValueError as error:
    raise UserError(f'data: {error}') from error


def _finished(config, workdir):
  """Returns the Dataset and the folder of a run that exists."""
  dataset, _ = check(_given(config, '--config=configs/NAME.py'))
  workdir = _given(workdir, '--workdir=DIR')
  _open_data(dataset)
  return dataset, open_run_folder(workdir, config)


def _warn_of_steps(path, num_steps):
  card = checkpoints.read_card(path)
  if num_steps not in (None, card['num_steps']):
    print(
      f'warning: this checkpoint was made for {card["num_steps"]} sampling '
      f'steps, not {num_steps}',
      file=sys.stderr,
    )


def _show_report(config, dataset, workdir):
  folder = write_report(config, dataset, workdir)
  written = json.loads((folder / 'report.json').read_text())
  print(f'{"sampler":<12}{"steps":>6}{"Frechet distance":>18}{"score":>8}')
  for row in written['rows']:
    print(
      f'{row["sampler"]:<12}{row["num_steps"]:>6}'
      f'{row["frechet_distance"]:>18.3f}{row["classifier_score"]:>8.2f}'
    )
  print(f'report: {folder / "index.html"}')
