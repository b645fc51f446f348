"""Measures every round of a run, and the undistilled samplers beside it."""

import json
import pathlib
import time

import numpy as np

from diffusion_distillation.evaluation import metrics, plots
from diffusion_distillation.evaluation.features import Classifier
from diffusion_distillation.evaluation.generate import Generator
from diffusion_distillation.training import checkpoints
from diffusion_distillation.training.log import Progress
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
    self._train, train_probabilities = self._classifier(_images(dataset.train))
    self._heldout, _ = self._classifier(_images(dataset.heldout))
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


def _images(examples):
  return np.stack([example['image'] for example in examples])


class Rows:
  """The rows of a run's table, in a file so that none is measured twice."""

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'evaluations.jsonl'

  def read(self):
    """Returns the rows measured so far, in the order of measuring."""
    if not self._path.exists():
      return []
    return [json.loads(line) for line in self._path.read_text().splitlines()]

  def find(self, wanted):
    """Returns the row that has all of these items, or None."""
    for row in self.read():
      if wanted.items() <= row.items():
        return row
    return None

  def add(self, row):
    with self._path.open('a') as file:
      file.write(json.dumps(row) + '\n')

  def clear(self):
    self._path.unlink(missing_ok=True)


def plan_rows(config):
  """Returns what to measure: (sampler, num_steps, checkpoint) of each row.

  Every student at its steps, and the teacher by DDIM and ancestral sampling at
  the same steps and at those it is distilled from. The checkpoint's path is
  absolute, or in the run folder.
  """
  if config.distillation is None:
    steps, teacher = [config.model.eval_sampling_num_steps], 'teacher'
    rows = []
  else:
    ladder = rounds(config.distillation)
    steps = [config.distillation.start_num_steps]
    steps += [this.num_steps for this in ladder]
    given = config.distillation.teacher_checkpoint_path
    teacher = (
      'teacher' if given is None else str(pathlib.Path(given).absolute())
    )
    rows = [('distilled', this.num_steps, this.name) for this in ladder]
  for sampler in ('ddim', 'ancestral'):
    rows += [(sampler, num_steps, teacher) for num_steps in steps]
  return rows


def evaluate_run(config, dataset, workdir):
  """Measures what `plan_rows` says and is not measured yet, and draws grids.

  Args:
    config: of the run.
    dataset: its Dataset.
    workdir: its folder; gets evaluations.jsonl and samples/*.png.
  """
  workdir, rows = pathlib.Path(workdir), Rows(workdir)
  wanted = [
    (
      {'sampler': s, 'num_steps': n, 'num_samples': config.eval.num_samples},
      path,
    )
    for s, n, path in plan_rows(config)
  ]
  missing = [(row, path) for row, path in wanted if rows.find(row) is None]
  if not missing:
    return
  evaluator = Evaluator(dataset, config.eval.num_samples)
  # One card for all rows: a teacher from elsewhere is sampled as this run is.
  card = checkpoints.read_card(workdir / wanted[0][1])
  generator = Generator(card, config.eval.batch_size)
  work = Progress(
    'evaluate',
    sum(row['num_steps'] for row, _ in missing),
    unit='network evaluations',
  )
  done = 0
  for row, path in missing:
    weights = checkpoints.load(workdir / path).weights
    method = 'ddim' if row['sampler'] == 'distilled' else row['sampler']
    generator.warm_up(weights, method, len(evaluator.seeds))
    started = time.monotonic()
    images = generator.images(
      weights, evaluator.seeds, row['num_steps'], method
    )
    seconds = time.monotonic() - started
    figures = evaluator.measure(images)
    name = f'{row["sampler"]}_{row["num_steps"]:05}'
    plots.save_grid(images, workdir / 'samples' / f'{name}.png')
    rows.add({**row, **figures, 'seconds': seconds})
    done += row['num_steps']
    work.show(
      done, f'{name}  Frechet distance {figures["frechet_distance"]:.3g}'
    )
