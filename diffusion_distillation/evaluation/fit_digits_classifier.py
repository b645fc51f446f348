"""Trains the classifier of digits and writes digits_classifier.npz.

The file is part of the repository, so this script needs to run only to change
it: `python -m diffusion_distillation.evaluation.fit_digits_classifier`. It
prints the accuracy on the 297 held-out images, which are not trained on.
"""

import pathlib

import numpy as np
from sklearn.neural_network import MLPClassifier

from diffusion_distillation.data import digits

WEIGHTS = pathlib.Path(__file__).with_name('digits_classifier.npz')


def _flat(examples):
  images = np.stack([example['image'] for example in examples])
  labels = np.array([example['label'] for example in examples])
  return images.reshape(len(images), -1) / 255.0, labels


def main():
  dataset = digits.load(class_conditional=True)
  classifier = MLPClassifier(
    (128, 64), alpha=1e-4, learning_rate_init=1e-3, max_iter=400, random_state=0
  ).fit(*_flat(dataset.train))
  arrays = {}
  for layer in range(3):
    kernel, bias = classifier.coefs_[layer], classifier.intercepts_[layer]
    arrays[f'kernel_{layer}'] = kernel.astype(np.float32)
    arrays[f'bias_{layer}'] = bias.astype(np.float32)
  np.savez_compressed(WEIGHTS, **arrays)
  print(f'held-out accuracy {classifier.score(*_flat(dataset.heldout)):.3f}')
  print(f'wrote {WEIGHTS}, {WEIGHTS.stat().st_size / 1024:.0f} KiB')


if __name__ == '__main__':
  main()
