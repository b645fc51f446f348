"""Writes interpolate_reference.npz: the input that pytorch-fid's network gets.

Run once, with PyTorch 2.13.0; no test runs it. pytorch-fid 0.3.0 resizes images
to 299 x 299 by `interpolate` and maps grey levels to [-1, 1]. The inputs are
stored with the results, of which every 13th and the last row and column are
kept.

python tests/data/make_interpolate_reference.py
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional

SIZES = ((32, 32), (2, 3), (64, 300), (500, 7))  # height, width


def main():
  rng = np.random.RandomState(0)
  kept, arrays = [*range(0, 299, 13), 298], {}
  for height, width in SIZES:
    image = rng.randint(0, 256, (1, height, width, 1), np.uint8)
    x = torch.from_numpy(image / np.float32(255)).permute(0, 3, 1, 2)
    x = functional.interpolate(
      x, size=(299, 299), mode='bilinear', align_corners=False
    )
    x = (2 * x - 1).permute(0, 2, 3, 1).numpy()
    arrays[f'image_{height}x{width}'] = image
    arrays[f'input_{height}x{width}'] = x[:, kept][:, :, kept]
  path = pathlib.Path(__file__).with_name('interpolate_reference.npz')
  np.savez_compressed(path, kept=kept, **arrays)


if __name__ == '__main__':
  main()
