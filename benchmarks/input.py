"""Images per second that the input pipeline gives, and that training takes.

And the part of its time that training spends waiting for them: in the real
loop, from asking for a batch until it is in place for the call. The goal is at
most 2 %.
"""

import io
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from PIL import Image

from benchmarks import random_images, taps
from configs import digits_base
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.data.pipeline import batches
from diffusion_distillation.objectives.denoising import make_train_step
from diffusion_distillation.runtime import devices
from diffusion_distillation.training.config import check
from diffusion_distillation.training.optimizer import make_optimizer
from diffusion_distillation.training.state import create_state

_REPEATS = 7
_LOOP = 200  # updates that are measured in the loop, after as many
# The paper's networks: GFLOP of a forward pass of an image, by --mode=plan; an
# update of a teacher costs three.
_FORWARD_GFLOP = {'cifar10': 34.1, 'imagenet64': 211, 'lsun128': 130}
# Not measured: 40 % of the 989 TFLOP/s that an H200 has in bfloat16.
_ASSUMED_TFLOP_PER_S = 400


def rows(subject):
  """Returns the measurements: what gives or takes how many images a second.

  Args:
    subject: not used; these are the digits, and the sizes of the paper's sets.
  """
  del subject
  with tempfile.TemporaryDirectory() as folder:
    _write_jpegs(pathlib.Path(folder))
    args = {'path': folder, 'heldout_fraction': 0.01}
    jpegs = {
      size: load_dataset('folder', {**args, 'image_size': size})
      for size in (64, 128)
    }
    memory = random_images.dataset(50_000)
    return [
      _row('gives', '32x32 in memory, batch 128', _given(memory, 128)),
      _row('gives', 'JPEG 500x375 to 64, batch 64', _given(jpegs[64], 64)),
      _row('gives', 'JPEG 500x375 to 128, batch 64', _given(jpegs[128], 64)),
      _row('takes', 'digits_base, 8x8, batch 64', _taken({}, 64)),
      _row('takes', 'digits_base, 32x32, batch 16', _taken(args, 16)),
      _waiting(),
      *(
        _row(
          'takes',
          f'paper, {name}, teacher',
          _ASSUMED_TFLOP_PER_S * 1e3 / (3 * gflop),
          f'assumed: {_ASSUMED_TFLOP_PER_S} TFLOP/s',
        )
        for name, gflop in _FORWARD_GFLOP.items()
      ),
    ]


def _row(what, of, images_per_s, how='measured', waiting=None):
  return {
    'input': what,
    'what': of,
    'images/s': images_per_s,
    'waiting %': waiting,
    'how': how,
  }


def _waiting():
  """Returns the row of what the loop takes, and how long it waits for it."""
  config = digits_base.get_config()
  config.train.num_updates = 2 * _LOOP
  dataset, _ = check(config)
  marks = _LOOP - 1, 2 * _LOOP - 1
  with tempfile.TemporaryDirectory() as workdir:
    clock = taps.train(config, dataset, pathlib.Path(workdir), finished=marks)
  ends = clock.calls['train_step']
  begin, end = ends[_LOOP - 1], ends[-1]
  waited = sum(b - a for a, b in clock.waits if begin <= a < end)
  return _row(
    'takes',
    'digits_base, 8x8, in the loop',
    _LOOP * config.train.batch_size / (end - begin),
    waiting=100 * waited / (end - begin),
  )


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
  count = max(1, 400 // batch_size) if dataset.name == 'folder' else 100
  for _ in range(count):  # beyond what was read ahead
    next(iterator)
  seconds = _median(lambda: [next(iterator) for _ in range(count)])
  return count * batch_size / seconds


def _taken(folder_args, batch_size):
  """Returns the images per second that the digits' teacher trains on.

  Args:
    folder_args: where to take 32 x 32 images from; none is the digits.
    batch_size: of the training.
  """
  config = digits_base.get_config()
  config.train.batch_size = batch_size
  if folder_args:
    config.dataset.name = 'folder'
    with config.unlocked():
      config.dataset.args = {**folder_args, 'image_size': 32}
  dataset, denoiser = check(config)
  optimizer = make_optimizer(config.train)
  step = make_train_step(denoiser, optimizer, config)
  compiled = devices.compile_step(step, in_axes=(0, 0, None))
  state = devices.replicate(
    create_state(
      jax.jit(denoiser.init)(jax.random.key(0)),
      optimizer,
      num_updates=config.train.num_updates,
      ema_decay=config.train.ema_decay,
    )
  )
  batch = next(batches(dataset, batch_size=batch_size, seed=0))
  batch, key = devices.shard([batch]), jax.random.key(1)

  def update():
    nonlocal state
    state, metrics = compiled(state, batch, key)
    jax.block_until_ready(metrics)

  update()  # compiles
  return batch_size / _median(update)


def _median(function):
  """Returns the median of the seconds that a function takes."""
  seconds = []
  for _ in range(_REPEATS):
    started = time.monotonic()
    function()
    seconds.append(time.monotonic() - started)
  return statistics.median(seconds)
