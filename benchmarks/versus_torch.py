"""Compares the steps and the sampler with the same network in PyTorch.

python -m benchmarks.versus_torch [--config=configs/digits_distill.py]

Needs PyTorch, as nothing else here does: pip install torch. This project,
PyTorch, and PyTorch with torch.compile run in a process each, with the same
parameters, cores and number of threads, and take turns: A B C A B C. Before
that, their outputs, images, and the losses and gradients of three updates have
to agree. A ratio is this project's speed divided by PyTorch's, in the median
over the turns: above 1, this project is faster.

The machine must be idle. Threads of OpenMP, which PyTorch uses, wait for each
other, and another program on one of the cores makes them several times slower.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import importlib.util
import multiprocessing
import operator
import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from benchmarks import __main__ as benchmarks
from benchmarks import subject, timing
from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.generation import generator
from diffusion_distillation.runtime import allocator, devices
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.optimizer import learning_rate
from diffusion_distillation.training.step import example_keys

_SECONDS = 0.5  # approximate length of one program's turn
_SAMPLING_STEPS = 8
_UPDATES = 3  # that are compared
# What the twin in PyTorch can do, by keys of the configs of both trainings.
_CAN = {
  'model.name': ('unet_iddpm',),
  'model.mean_type': ('x', 'v'),
  'model.mean_loss_weight_type': ('snr_trunc',),
  'model.noise': ('gaussian',),
  'model.train_num_steps': (0, None),
  'model.train_logsnr_schedule.name': ('cosine',),
  'model.eval_logsnr_schedule.name': ('cosine',),
  'model.eval_clip_denoised': (True,),
  'model.args.logsnr_input_type': ('inv_cos',),
  'model.args.resblock_resample': (True,),
  'model.args.dtype': ('float32', 'bfloat16'),
  'model.args.remat': (False,),
  'train.optimizer': ('adam',),
  'train.accumulate': (1,),
}
# Largest differences in float32 on CPU, relative to the largest value: of
# outputs, of losses and norms of gradients, and of images (two grey levels).
_TOLERANCES = {
  'output': 1e-5,
  'train_step': 1e-4,
  'distill_step': 1e-4,
  'sampler': 0.01,
}
_LOOSER = 1000  # other types and devices round more


def check(measured):
  """Checks that the twin can do the same, and that PyTorch is installed.

  Args:
    measured: a Subject.

  Raises:
    UserError: it cannot be compared.
  """
  if jax.local_device_count() > 1:
    raise UserError(
      'versus_torch needs a single device: set CUDA_VISIBLE_DEVICES=0, or '
      'remove xla_force_host_platform_device_count from XLA_FLAGS'
    )
  for training in measured.teacher_and_students():
    for key, values in _CAN.items():
      value = operator.attrgetter(key)(training.config)
      if value not in values:
        known = ' or '.join(map(repr, values))
        raise UserError(
          f'versus_torch supports only {key}={known}, got {value!r}'
        )
  if measured.dataset.num_classes > 1:
    raise UserError(
      'versus_torch has no networks with classes; set '
      'dataset.args.class_conditional=False'
    )
  if importlib.util.find_spec('torch') is None:
    raise UserError('versus_torch needs PyTorch: pip install torch')


def prepare(measured, batch_size):
  """Makes what is compared.

  Args:
    measured: a Subject.
    batch_size: images of a batch.

  Returns:
    The programs of this project, name -> function without arguments; inputs for
    its twin, of NumPy alone; and what the programs answer to them.
  """
  shape, config = measured.dataset.image_shape, measured.config
  batch = measured.batch(batch_size)
  seeds = np.arange(batch_size, dtype=np.uint32)
  card = make_card(
    config,
    measured.dataset,
    num_steps=_SAMPLING_STEPS,
    sampler='ddim',
    objective=config.objective,
  )
  draw = generator.Generator(card, batch_size).drawer(
    measured.params, card.sampler, batch_size
  )
  programs = {'sampler': functools.partial(draw, seeds, _SAMPLING_STEPS)}
  z, _ = generator.noise_of(seeds, shape)
  logsnr = jnp.linspace(-6, 6, batch_size)
  output = jax.jit(
    functools.partial(measured.denoiser.network.apply, train=False)
  )({'params': measured.params}, z, logsnr)
  answers = {'output': np.asarray(output), 'sampler': programs['sampler']()}
  inputs = {
    'params': traverse_util.flatten_dict(measured.params),
    'images': batch['image'],
    'z': np.asarray(z),
    'logsnr': np.asarray(logsnr),
    'num_steps': subject.NUM_STEPS,
    'sampling_steps': _SAMPLING_STEPS,
    'trainings': {},
  }
  for training in measured.teacher_and_students():
    name, train = training.step_name, training.config.train
    programs[name] = measured.updater(training, devices.shard([batch]))
    inputs['trainings'][name] = {
      'model': training.config.model.to_dict(),
      'train': train.to_dict(),
      'rates': [
        float(learning_rate(train, jnp.int32(step), subject.NUM_UPDATES))
        for step in range(_UPDATES)
      ],
      'draws': [],
    }
    if training.config.model.args.dropout:
      continue  # its masks are not the same
    inputs['trainings'][name]['draws'] = [
      _draws(name, step, batch['image'].shape) for step in range(_UPDATES)
    ]
    metrics = [programs[name]() for _ in range(_UPDATES)]
    answers[name] = np.array(
      [[m[key].item() for key in ('loss', 'grad_norm')] for m in metrics]
    )
  return programs, inputs, answers


def _draws(name, step, shape):
  """Returns the times (of students: indices) and the noise of an update."""

  def index(key):
    return jax.random.randint(key, (), 0, subject.NUM_STEPS)

  def draw(_):
    time_keys, noise_keys, _ = example_keys(
      jax.random.key(subject.SEED), step, shape[0]
    )
    draw_time = jax.random.uniform if name == 'train_step' else index
    draw_noise = functools.partial(jax.random.normal, shape=shape[1:])
    return jax.vmap(draw_time)(time_keys), jax.vmap(draw_noise)(noise_keys)

  # `example_keys` numbers the examples of all devices; here there is one.
  drawn = jax.vmap(draw, axis_name='batch')(jnp.zeros(1))
  return [np.asarray(array[0]) for array in drawn]


def difference(name, answers, others, exact):
  """Returns the largest difference of an answer, relative to its largest value.

  Args:
    name: name of the answer.
    answers: those of this project.
    others: those of PyTorch.
    exact: whether both computed in float32 on a CPU.

  Raises:
    UserError: it is too large.
  """
  ours, theirs = (np.asarray(a[name], float) for a in (answers, others))
  found = abs(theirs - ours).max() / abs(ours).max()
  most = _TOLERANCES[name] * (1 if exact else _LOOSER)
  if not found <= most:
    raise UserError(
      f'{name} in PyTorch differs by {found:.2g}, more than {most:.2g}: these '
      'are not the same programs, so their times are not compared'
    )
  return found


def _twin(name, *args, **kwargs):
  """Calls a function of `torch_twin`; this project itself imports no torch."""
  function = getattr(importlib.import_module('benchmarks.torch_twin'), name)
  return function(*args, **kwargs)


def _seconds(programs, name, calls):
  started = time.perf_counter()
  for _ in range(calls):
    result = programs[name]()
  jax.block_until_ready(result)
  return (time.perf_counter() - started) / calls


def rows(measured, batch_size, *, threads, turns):
  """Returns the measurements at a batch size.

  Args:
    measured: a Subject.
    batch_size: images of a batch.
    threads: number of threads of each process.
    turns: number of turns of each program.

  Raises:
    UserError: the programs do not agree.
  """
  programs, inputs, answers = prepare(measured, batch_size)
  exact = measured.config.model.args.dtype == 'float32'
  exact = exact and jax.default_backend() == 'cpu'
  timers = {'ours': functools.partial(_seconds, programs)}
  with contextlib.ExitStack() as stack:
    for name in ('eager', 'compiled'):
      pool = stack.enter_context(
        concurrent.futures.ProcessPoolExecutor(
          1, mp_context=multiprocessing.get_context('spawn')
        )
      )

      def call(*args, _pool=pool, **kwargs):
        return _pool.submit(_twin, *args, **kwargs).result()

      compiled = name == 'compiled'
      others = call('start', inputs, threads=threads, compiled=compiled)
      found = [
        f'{k} {difference(k, answers, others, exact):.1g}' for k in answers
      ]
      print(f'{name} differs by', ', '.join(found), flush=True)
      timers[name] = functools.partial(call, 'seconds')
    return [
      {
        'program': name,
        'batch': batch_size,
        **_side_by_side(timers, name, turns),
      }
      for name in ('train_step', 'distill_step', 'sampler')
    ]


def _side_by_side(timers, name, turns):
  calls, times = {}, {who: [] for who in timers}
  for who, timer in timers.items():
    timer(name, 1)
    calls[who] = max(1, round(_SECONDS / timer(name, 1)))
  for _ in range(turns):
    for who, timer in timers.items():
      times[who].append(timer(name, calls[who]))
  medians = {f'{who} ms': 1e3 * statistics.median(times[who]) for who in timers}
  ratios = {
    f'speed / {who}': timing.ratio(times[who], times['ours'])
    for who in ('eager', 'compiled')
  }
  return medians | ratios


def main():
  """Compares what the command line names."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.versus_torch')
  benchmarks.add_config_options(parser)
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument(
    '--threads',
    type=int,
    help='number of threads and cores; default: all cores',
  )
  options = parser.parse_args()
  # XLA has a thread for each core that its process may use. The processes of
  # PyTorch inherit the cores.
  cores = sorted(os.sched_getaffinity(0))[: options.threads]
  os.sched_setaffinity(0, cores)
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  allocator.keep_freed_memory()  # as main.py does
  load = os.getloadavg()[0]
  if load > 0.5:
    print(f'warning: other programs are running (load average {load:.1f})')
  try:
    measured = subject.read(
      options.config,
      options.batch_size,
      options.dtype,
      settings=dict(options.set),
    )
    check(measured)
    found = [
      row
      for batch_size in measured.batch_sizes
      for row in rows(
        measured, batch_size, threads=len(cores), turns=options.turns
      )
    ]
  except UserError as error:
    sys.exit(f'error: {error}')
  print(benchmarks.table(found))
  hardware = devices.hardware()
  machine = {**hardware, 'threads': len(cores), 'load_average': load}
  benchmarks.record(
    'versus_torch', options, measured.config, machine, found, ('torch',)
  )


if __name__ == '__main__':
  main()
