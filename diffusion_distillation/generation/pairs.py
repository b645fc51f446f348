"""Pairs of noise and the teacher's image, for one-shot distillation."""

import dataclasses
import functools

import numpy as np

from diffusion_distillation.data.dataset import ArrayExamples
from diffusion_distillation.generation.generator import condition_of

# Samples are measured from the seed 0 on, so pairs have other seeds: a student
# must not be measured on the noise that it was trained with.
FIRST_SEED = 2**31


class _SeededExamples(ArrayExamples):
  """Images in memory, of consecutive seeds; each example has its seed."""

  def __getitem__(self, index):
    return {**super().__getitem__(index), 'seed': np.uint32(FIRST_SEED + index)}


def pairs_of(dataset, images):
  """Returns a Dataset of images of the teacher, with the seeds of their noise.

  The noise of an image is drawn again from its seed, and needs no space.

  Args:
    dataset: the Dataset to replace the training images of.
    images: (N, H, W, C) uint8, of the seeds from FIRST_SEED on.
  """
  seeds = np.arange(FIRST_SEED, FIRST_SEED + len(images))
  labels = condition_of(seeds, dataset.num_classes)['label']
  examples = functools.partial(_SeededExamples, images, labels)
  return dataclasses.replace(dataset, random_flip=False, open_train=examples)
