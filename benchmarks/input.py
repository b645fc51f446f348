"""Images per second that the input pipeline gives, and that training takes.

The suite also measures the fraction of its time that training waits for input:
in the real loop, from asking for a batch until it is in place for the call. The
goal is at most 2 %.
"""

import io
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import taps, timing
from benchmarks.subject import random_dataset, read
from diffusion_distillation.data.batches import batches
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.runtime import devices

_REPEATS = 7
_LOOP = 200  # updates that are measured, after as many that are not
_PAPER = ('cifar10', 'imagenet64', 'lsun_bedroom128')
_PASSES = 3  # cost of an update of a teacher, in forward passes
# This is an estimate: 40 % of the 989 TFLOP/s of an H200 in bfloat16.
_ASSUMED_TFLOP_PER_S = 400


def rows(subject):
  """Returns the rates of the pipeline, of digits, and of the paper's networks.

  Args:
    subject: not used; the suite has its own configs.
  """
  del subject
  digits = read('configs/digits_base.py')
  digits32 = read('benchmarks/digits32_distill.py')
  with tempfile.TemporaryDirectory() as folder:
    _write_jpegs(pathlib.Path(folder))
    jpegs = {
      size: load_dataset('folder', {'path': folder, 'image_size': size})
      for size in (64, 128)
    }
    memory = random_dataset(50_000)
    given = [
      _row('gives', '32x32 in memory, batch 128', _given(memory, 128)),
      _row('gives', 'JPEG 500x375 to 64, batch 64', _given(jpegs[64], 64)),
      _row('gives', 'JPEG 500x375 to 128, batch 64', _given(jpegs[128], 64)),
    ]
  return [
    *given,
    _row('takes', 'digits, 8x8, batch 64', _taken(digits)),
    _row('takes', 'digits, 32x32, batch 16', _taken(digits32)),
    _in_the_loop(digits),
    *(_assumed(name) for name in _PAPER),
  ]


def _row(what, of, images_per_s, how='measured', waiting=None):
  return {
    'input': what,
    'what': of,
    'images/s': images_per_s,
    'waiting %': waiting,
    'how': how,
  }


def _write_jpegs(folder):
  """Writes 200 JPEGs like ImageNet's: 500 x 375, about 100 kB."""
  rng = np.random.default_rng(0)
  y, x, c = np.ogrid[:375, :500, :3]
  for index in range(200):
    waves = np.sin(x / 25 + index) * np.cos(y / 40 + c)
    image = 127 + 60 * waves + 20 * rng.standard_normal((375, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
      buffer, 'JPEG', quality=90
    )
    (folder / f'{index:03}.jpg').write_bytes(buffer.getvalue())


def _given(dataset, batch_size):
  """Returns the images per second of a data set's batches, a median."""
  iterator = batches(dataset, batch_size=batch_size, seed=0)
  # This is more than the pipeline reads ahead.
  count = max(1, 400 // batch_size) if dataset.name == 'folder' else 100
  seconds = []
  for _ in range(1 + _REPEATS):
    started = time.perf_counter()
    for _ in range(count):
      next(iterator)
    seconds.append(time.perf_counter() - started)
  return count * batch_size / statistics.median(seconds[1:])


def _taken(measured):
  """Returns the images per second that the teacher of a Subject trains on."""
  training = measured.trainings[0]
  batch_size = training.config.train.batch_size
  batch = devices.shard([measured.batch(batch_size)])
  update = measured.updater(training, batch)
  times = timing.interleaved({'update': update})
  return batch_size / statistics.median(times['update'])


def _in_the_loop(measured):
  """Returns the row of what the loop takes, and how long it waits for input."""
  config = measured.config
  config.train.num_updates = 2 * _LOOP
  marks = _LOOP - 1, 2 * _LOOP - 1
  with tempfile.TemporaryDirectory() as workdir:
    clock = taps.train(
      config, measured.dataset, pathlib.Path(workdir), finished=marks
    )
  begin, end = (clock.calls['train_step'][mark] for mark in marks)
  waited = sum(b - a for a, b in clock.waits if begin <= a < end)
  return _row(
    'takes',
    'digits, 8x8, in the loop',
    _LOOP * config.train.batch_size / (end - begin),
    waiting=100 * waited / (end - begin),
  )


def _assumed(name):
  """Returns the row of a teacher of the paper, by its FLOPs."""
  flops = _PASSES * read(f'configs/{name}_base.py').flops
  return _row(
    'takes',
    f'paper, {name}, teacher',
    _ASSUMED_TFLOP_PER_S * 1e12 / flops,
    f'assumed: {_ASSUMED_TFLOP_PER_S} TFLOP/s',
  )
