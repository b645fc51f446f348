"""Time lost between the rounds of a distillation, in the real Trainer.

A round ends when its last update is finished. What is lost is the time from
there to the end of the next round's first update, minus one update. The goals:
no compilation, and less than 1 % of a round of 500 updates. The suite reports
separately how much slower the updates after that are, while the checkpoint of
the round is still being written, as after any checkpoint.

The baseline trains in the same loop with a step like the original's, whose
teacher and number of sampling steps are constants of the program. Each round
then compiles another program.
"""

import pathlib
import tempfile

import numpy as np

from benchmarks import taps
from diffusion_distillation.runtime import devices

_UPDATES = 40  # updates of each round in this suite
_ROUND = 500  # updates of the round that the lost time is compared with


def rows(subject):
  """Returns the measurements of our rounds and of the original's.

  Args:
    subject: a Subject with a teacher and students. Its config is changed.
  """
  _, students = subject.teacher_and_students()
  subject.config.distillation.steps_per_iter = _UPDATES
  subject.config.teacher.train.num_updates = 2
  count = len(students.objective.rounds)
  here = _row('here', subject, count, None)
  original = _row('as the original', subject, count, _constants)
  lost = 'lost ms/round'
  return [
    {**row, 'original/here': original[lost] / here[lost]}
    for row in (here, original)
  ]


def _row(what, subject, count, replace):
  """Returns a row of medians over the gaps between `count` rounds."""
  marks = first, middle, last = 0, _UPDATES // 2 - 1, _UPDATES - 1
  finished = [k * _UPDATES + m for k in range(count) for m in marks]
  with tempfile.TemporaryDirectory() as folder:
    clock = taps.train(
      subject.config,
      subject.dataset,
      pathlib.Path(folder),
      finished=finished,
      replace=replace,
    )
  ends = np.reshape(clock.calls['distill_step'], (count, _UPDATES))
  # In the second half of a round, all work of the previous round has ended.
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
  """Returns a step that has teacher and step count compiled in."""
  if step.__name__ != 'distill_step':
    return compile_step(step, in_axes)
  compiled = {}

  def call(state, teacher_params, num_steps, batches, key):
    num_steps = int(num_steps)
    if num_steps not in compiled:
      teacher = devices.unreplicate(teacher_params)

      def constant_step(state, batch, key):
        return step(state, teacher, num_steps, batch, key)

      compiled[num_steps] = compile_step(constant_step, in_axes=(0, 0, None))
    return compiled[num_steps](state, batches, key)

  return call
