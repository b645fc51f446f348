"""Measures every round of a run, and the undistilled samplers beside it."""

import pathlib
import time

import numpy as np

from diffusion_distillation.errors import UserError
from diffusion_distillation.evaluation import metrics, plots
from diffusion_distillation.evaluation.features import Classifier
from diffusion_distillation.evaluation.generate import Generator
from diffusion_distillation.training import checkpoints, files
from diffusion_distillation.training.log import Progress
from diffusion_distillation.training.run_folder import teacher_of
from diffusion_distillation.training.settings import rounds


class Evaluator:
  """Compares images with a data set, in the features of a classifier."""

  def __init__(self, dataset, num_samples):
    """Computes the statistics of the data set.

    Args:
      dataset: a Dataset that has a classifier.
      num_samples: generated images per figure, of the seeds from 0 on.
    """
    self._classifier = Classifier(dataset.name)
    self._train, train_probabilities = self._classifier(
      example_images(dataset.train)
    )
    self._heldout, _ = self._classifier(example_images(dataset.heldout))
    self._statistics = metrics.statistics(self._train)
    self._heldout_statistics = metrics.statistics(self._heldout)
    self.seeds = np.arange(num_samples)
    self.description = {
      'name': 'frechet_distance',
      'features': self._classifier.name,
      'num_samples': num_samples,
      'reference': f'{dataset.name} train, {len(self._train)} images',
      'heldout': f'{dataset.name} held out, {len(self._heldout)} images',
      'images': 'uint8, rounded; seeds 0 to num_samples - 1',
    }
    self.floor = metrics.frechet_distance(
      *self._statistics, *self._heldout_statistics
    )
    self.train_score = metrics.classifier_score(train_probabilities)

  def measure(self, images):
    """Returns the figures of generated images, uint8 (N, H, W, C)."""
    features, probabilities = self._classifier(images)
    statistics = metrics.statistics(features)
    precision, recall = metrics.precision_recall(self._train, features)
    return {
      'frechet_distance': metrics.frechet_distance(
        *self._statistics, *statistics
      ),
      'frechet_distance_heldout': metrics.frechet_distance(
        *self._heldout_statistics, *statistics
      ),
      'classifier_score': metrics.classifier_score(probabilities),
      'precision': precision,
      'recall': recall,
    }


def example_images(examples):
  """Returns the images of a sequence of examples, (N, H, W, C) uint8."""
  return np.stack([example['image'] for example in examples])


def plan_rows(config, workdir):
  """Returns what to measure: (what identifies the row, checkpoint) of each.

  Every student at its steps, and the teacher by DDIM and ancestral sampling at
  the same steps and at those it is distilled from.

  Args:
    config: of the run.
    workdir: its folder, absolute, all its trainings finished.

  Raises:
    UserError: one is not.
  """
  if config.distillation is None:
    steps, students = [config.model.eval_sampling_num_steps], []
  else:
    students = rounds(config.distillation)
    steps = [config.distillation.start_num_steps]
    steps += [this.num_steps for this in students]
  teacher = teacher_of(workdir) or str(workdir / 'teacher')
  rows = [('distilled', r.num_steps, workdir / r.name) for r in students]
  for sampler in ('ddim', 'ancestral'):
    rows += [(sampler, num_steps, teacher) for num_steps in steps]
  return [
    (
      {
        'sampler': sampler,
        'num_steps': num_steps,
        'num_samples': config.eval.num_samples,
        'updates': _finished_updates(path),
      },
      path,
    )
    for sampler, num_steps, path in rows
  ]


def _finished_updates(path):
  training = checkpoints.read_card(path)['training']
  if training['updates'] < training['num_updates']:
    raise UserError(
      f'{path} has had {training["updates"]} of {training["num_updates"]} '
      'updates; --mode=train finishes it'
    )
  return training['updates']


class Rows:
  """The measured rows of a run, in a file, so that none is measured twice."""

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'evaluations.jsonl'

  def find(self, wanted):
    """Returns the newest row that has all of these items, or None."""
    for row in reversed(files.read_jsonl(self._path)):
      if wanted.items() <= row.items():
        return row
    return None

  def add(self, row):
    """Adds a row."""
    files.append_jsonl(self._path, row)


def evaluate_run(config, dataset, workdir, *, anew=False):
  """Measures what `plan_rows` says and is not measured yet, and draws grids.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder; gets evaluations.jsonl and samples/*.png.
    anew: whether to measure all rows, whatever is measured already.
  """
  rows, wanted = Rows(workdir), plan_rows(config, workdir)
  missing = [(r, path) for r, path in wanted if anew or rows.find(r) is None]
  if not missing:
    return
  evaluator = Evaluator(dataset, config.eval.num_samples)
  # One card for all rows: a teacher from elsewhere is sampled as this run is.
  generator = Generator(
    checkpoints.read_card(wanted[0][1]), config.eval.batch_size
  )
  total = sum(row['num_steps'] for row, _ in missing)
  progress = Progress('evaluate', total, unit='network evaluations')
  done = 0
  for row, path in missing:
    images, seconds = _draw(generator, evaluator.seeds, row, path)
    figures = evaluator.measure(images)
    name = f'{row["sampler"]}_{row["num_steps"]:05}'
    plots.save_grid(images, workdir / 'samples' / f'{name}.png')
    rows.add({**row, **figures, 'seconds': seconds})
    done += row['num_steps']
    distance = figures['frechet_distance']
    progress.show(done, f'{name}  Frechet distance {distance:.3g}')


def _draw(generator, seeds, row, path):
  """Returns a row's images, and the seconds they took, without compilation."""
  weights = checkpoints.load(path).weights
  method = 'ddim' if row['sampler'] == 'distilled' else row['sampler']
  generator.warm_up(weights, method, len(seeds))
  started = time.monotonic()
  images = generator.images(weights, seeds, row['num_steps'], method)
  return images, time.monotonic() - started
