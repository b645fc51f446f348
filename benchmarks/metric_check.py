"""Measures damaged real images, to see whether the metrics notice it.

python -m benchmarks.metric_check --config=fashion_mnist14_distill

Held-out images are measured as they are, and after each of CHANGES. The figures
go to docs/results/metrics/CONFIG.json, and `python -m benchmarks.readme` writes
their table into docs/evaluation.md.
"""

import argparse
import json
import pathlib

import numpy as np
from scipy import ndimage

from diffusion_distillation.commands import config_file
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.evaluation import statistics
from diffusion_distillation.evaluation.evaluator import open_evaluator
from diffusion_distillation.runtime import files
from diffusion_distillation.training.config import check

RESULTS = pathlib.Path(__file__).parents[1] / 'docs' / 'results' / 'metrics'


def _blurred(sigma):
  def change(images, labels, train):
    del labels, train
    return ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0))

  return change


def _noised(std):
  def change(images, labels, train):
    del labels, train
    noise = np.random.default_rng(0).normal(0, 127.5 * std, images.shape)
    return images + noise

  return change


def _without_classes(count):
  def change(images, labels, train):
    del train
    return images[labels >= count]

  return change


def _repeated(count):
  def change(images, labels, train):
    del labels, train
    return np.repeat(images, count, axis=0)

  return change


def _copied(images, labels, train):
  del images, labels
  return train


# Name -> function (held-out images, labels, training images) -> images. The
# first of them are measured.
CHANGES = {
  'held out': lambda images, labels, train: images,
  'blurred, 0.3 pixels': _blurred(0.3),
  'blurred, 0.5 pixels': _blurred(0.5),
  'blurred, 1 pixel': _blurred(1),
  'noise of 0.05': _noised(0.05),
  'noise of 0.1': _noised(0.1),
  'noise of 0.3': _noised(0.3),
  'one class missing': _without_classes(1),
  'three classes missing': _without_classes(3),
  'a tenth, ten times': _repeated(10),
  'copies of training images': _copied,
}


def measure(config, num_images):
  """Returns name -> figures of changed held-out images, and the protocol.

  Args:
    config: config of a data set with labels.
    num_images: images that are measured.
  """
  dataset, _ = check(config)
  labelled = load_dataset(
    config.dataset.name, {**config.dataset.args, 'class_conditional': True}
  )
  images, labels = (
    np.stack([example[key] for example in labelled.heldout])
    for key in ('image', 'label')
  )
  train = np.stack([dataset.train[i]['image'] for i in range(num_images)])
  evaluator = open_evaluator(config, dataset)
  figures = {}
  for name, change in CHANGES.items():
    changed = change(images, labels, train)[:num_images]
    changed = np.clip(np.round(changed), 0, 255)
    batches = statistics.batches_of(changed.astype(np.uint8))
    figures[name] = evaluator.measure(batches, num_images)
  return figures, evaluator.protocol(num_images, 'real images, changed')


def main():
  parser = argparse.ArgumentParser(prog='python -m benchmarks.metric_check')
  parser.add_argument('--config', default='fashion_mnist14_distill')
  parser.add_argument('--num_images', type=int, default=2000)
  options = parser.parse_args()
  config = config_file.load(options.config)
  figures, protocol = measure(config, options.num_images)
  for name, row in figures.items():
    print(name, {key: round(float(value), 4) for key, value in row.items()})
  RESULTS.mkdir(parents=True, exist_ok=True)
  path = RESULTS / f'{options.config}.json'
  result = {'metric': protocol, 'rows': figures}
  files.write_text(path, json.dumps(result, indent=1, default=float) + '\n')


if __name__ == '__main__':
  main()
