"""Time lost between the rounds of a distillation, through the real Trainer.

A round ends when its last update is finished. What passes until the first of
the next is, less one update, is lost. The goals: no compilation, and less than
1 % of a round of 500 updates. Beside it stands by how much the updates after it
are slower, while the round's checkpoint is still written, as after any other.

The baseline trains in the same loop, with a step as the original's: its teacher
and its number of sampling steps are constants of the program, which is another
one in each round.
"""

import pathlib
import tempfile

import numpy as np

from benchmarks import taps
from diffusion_distillation.objectives.rounds import rounds
from diffusion_distillation.runtime import devices
from diffusion_distillation.training.config import check

_UPDATES = 40  # of a round that is measured
_ROUND = 500  # of the round that the loss is a share of


def rows(subject):
  """Returns the measurements of rounds here, and as the original has them."""
  config = subject.config
  if config.distillation is None:
    raise SystemExit(
      'the suite rounds needs a config with rounds: *_distill.py'
    )
  config.distillation.steps_per_iter = _UPDATES
  config.teacher.train.num_updates = 2
  here = _row('here', config, None)
  original = _row('as the original', config, _constants)
  # Of what is lost until the first update is finished.
  lost = 'lost ms/round'
  return [
    {**row, 'original/here': original[lost] / here[lost]}
    for row in (here, original)
  ]


def _row(what, config, replace):
  """Returns the medians over the gaps between rounds."""
  dataset, _ = check(config)
  marks = first, middle, last = 0, _UPDATES // 2 - 1, _UPDATES - 1
  count = len(rounds(config.distillation))
  waited_for = [k * _UPDATES + m for k in range(count) for m in marks]
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder)
    clock = taps.train(
      config, dataset, workdir, finished=waited_for, replace=replace
    )
  ends = np.reshape(clock.calls['distill_step'], (count, _UPDATES))
  # Of the second half, when nothing of the round before is going on any more.
  update = (ends[:, last] - ends[:, middle]) / (last - middle)
  usual = float(np.median(update))
  begins, ends_of_first = ends[:-1, last], ends[1:, first]
  lost = float(np.median(ends_of_first - begins)) - usual
  slowed = ends[1:, middle] - ends_of_first - (middle - first) * update[1:]
  slowed = float(np.median(slowed))
  gaps = zip(begins.tolist(), ends_of_first.tolist(), strict=True)
  return {
    'rounds': what,
    'gaps': count - 1,
    'ms/update': 1e3 * usual,
    'lost ms/round': 1e3 * lost,
    f'% of {_ROUND} updates': 100 * lost / (_ROUND * usual),
    'slower by ms': 1e3 * slowed,
    'and that %': 100 * slowed / (_ROUND * usual),
    'compilations/gap': max(taps.compilations(*gap) for gap in gaps),
  }


def _constants(compile_step, step, in_axes):
  """Returns a step whose teacher and step count are compiled into it."""
  if step.__name__ != 'distill_step':
    return compile_step(step, in_axes)
  compiled = {}

  def call(state, teacher_params, num_steps, batches, key):
    if int(num_steps) not in compiled:
      teacher, static = devices.unreplicate(teacher_params), int(num_steps)

      def constant_step(state, batch, key):
        return step(state, teacher, static, batch, key)

      compiled[static] = compile_step(constant_step, in_axes=(0, 0, None))
    return compiled[int(num_steps)](state, batches, key)

  return call
