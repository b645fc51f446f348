"""Pairs of noise and the teacher's image, for one-shot distillation."""

import dataclasses
import functools

import numpy as np

from diffusion_distillation.data.dataset import ArrayExamples
from diffusion_distillation.generation.generator import condition_of


class _SeededExamples(ArrayExamples):
  """Images in memory, of the seeds 0, 1, ...; each example has its seed."""

  def __getitem__(self, index):
    return {**super().__getitem__(index), 'seed': np.uint32(index)}


def pairs_of(dataset, images):
  """Returns the Dataset of images that were drawn from seeds, and these seeds.

  The noise of an image is drawn again from its seed, and needs no space.

  Args:
    dataset: the Dataset whose images these take the place of.
    images: (N, H, W, C) uint8, of the seeds 0 to N - 1.
  """
  seeds = np.arange(len(images))
  labels = condition_of(seeds, dataset.num_classes)['label']
  examples = functools.partial(_SeededExamples, images, labels)
  return dataclasses.replace(dataset, random_flip=False, open_train=examples)
