"""Writes resize_reference.npz: what tf.image.resize makes of a few images.

Run once, with tensorflow-cpu 2.21.0; no test runs it. The inputs are stored
with the results, as uint8 and float32.

python tests/data/make_resize_reference.py
"""

import pathlib

import numpy as np
import tensorflow as tf

# (height, width) -> sizes: shrinking by integer and fractional ratios,
# enlarging, odd sizes, one pixel.
CASES = {
  (64, 64): (16, 7),
  (75, 75): (32,),
  (33, 47): (20,),
  (9, 9): (16, 27),
  (5, 3): (8,),
  (1, 1): (4,),
}
METHODS = {
  'area': {'method': 'area'},
  'antialias': {'method': 'bilinear', 'antialias': True},
}


def images(shape, rng):
  """Yields a noisy and a smooth image of that shape, uint8."""
  yield 'noise', rng.randint(0, 256, (*shape, 3), np.uint8)
  rows, columns = np.ogrid[: shape[0], : shape[1]]
  waves = [np.sin(rows / 7 + k) * np.cos(columns / 5 - k) for k in range(3)]
  yield 'smooth', np.round(127.5 * (np.stack(waves, -1) + 1)).astype(np.uint8)


def main():
  rng, arrays = np.random.RandomState(0), {}
  for shape, sizes in CASES.items():
    for kind, image in images(shape, rng):
      name = f'{kind}_{shape[0]}x{shape[1]}'
      arrays[name] = image
      for size in sizes:
        for method, kwargs in METHODS.items():
          resized = tf.image.resize(image, (size, size), **kwargs).numpy()
          arrays[f'{name}_{method}_{size}'] = resized.astype(np.float32)
  path = pathlib.Path(__file__).with_name('resize_reference.npz')
  np.savez_compressed(path, **arrays)


if __name__ == '__main__':
  main()
