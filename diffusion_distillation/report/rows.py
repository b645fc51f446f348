"""The rows of a report: what is to be measured, and what is measured."""

import dataclasses
import json
import pathlib

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints.card import teacher_steps
from diffusion_distillation.objectives.rounds import rounds
from diffusion_distillation.runtime import files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import teacher_of
from diffusion_distillation.samplers import METHODS

# What is measured, in the order of the columns; a row has some of them.
FIGURES = (
  'frechet_distance',
  'frechet_distance_heldout',
  'sfid',
  'inception_score',
  'inception_score_std',
  'classifier_score',
  'precision',
  'recall',
  'kid',
  'seconds',
)

# What a protocol says at least.
_SAYS = {'label', 'dataset', 'features', 'num_samples', 'reference', 'heldout'}


@dataclasses.dataclass(frozen=True)
class Row:
  """One network, sampled by one method in one number of steps.

  Attributes:
    sampler: what it is called: 'distilled' is a student by DDIM,
      'distilled_METHOD' one by another method, 'METHOD' the teacher.
    method: of samplers.METHODS.
    num_steps: sampling steps.
    updates: that the network was trained with; None: not known.
    path: of its checkpoint.
  """

  sampler: str
  method: str
  num_steps: int
  updates: int | None
  path: pathlib.Path | str

  @property
  def name(self):
    """The name of its files."""
    return f'{self.sampler}_{self.num_steps:05}'

  @property
  def identity(self):
    """What tells it from others in the run folder, as JSON values."""
    return {
      'sampler': self.sampler,
      'num_steps': self.num_steps,
      'updates': self.updates,
    }

  @property
  def description(self):
    """The same as text, by which its picture is known."""
    return json.dumps(self.identity)

  def grid(self, workdir):
    """Returns the path of its picture."""
    return workdir / 'samples' / f'{self.name}.png'


def plan_rows(config, workdir, partial=False):
  """Returns the Rows of a run.

  Every student at its steps, by `eval.student_samplers`, and the teacher by
  `eval.samplers`: at `eval.num_steps`, or else at the students' steps and those
  it is distilled from. None has more than `eval.max_num_steps`.

  Args:
    config: of the run.
    workdir: its folder, absolute, all its trainings finished.
    partial: whether to leave out the rows of trainings that are not finished.

  Raises:
    UserError: one is not finished.
  """
  distillation = config.distillation
  students = [] if distillation is None else rounds(distillation)
  steps = [teacher_steps(config), *(this.num_steps for this in students)]
  teacher = teacher_of(workdir) or workdir / 'teacher'
  rows = []
  for method in config.eval.student_samplers:
    sampler = 'distilled' if method == 'ddim' else f'distilled_{method}'
    rows += [
      (
        sampler,
        method,
        METHODS[method].span * this.num_steps,
        workdir / this.name,
      )
      for this in students
    ]
  for method in config.eval.samplers:
    for num_steps in config.eval.num_steps or steps:
      rows.append((method, method, num_steps, teacher))
  most = config.eval.max_num_steps
  rows = [row for row in rows if most is None or row[2] <= most]
  if partial:
    rows = [row for row in rows if _is_finished(row[-1], config)]
  updates = {path: _finished_updates(path, config) for *_, path in rows}
  return [Row(*row, updates[path], path) for *row, path in rows]


def _finished_updates(path, config):
  """Returns how many updates weights have had; None of those from elsewhere."""
  training = checkpoints.read_card(path, config)['training']
  if training is None:
    return None
  if training['updates'] < training['num_updates']:
    raise UserError(
      f'{path} has had {training["updates"]} of {training["num_updates"]} '
      'updates; --mode=train finishes it'
    )
  return training['updates']


def _is_finished(path, config):
  try:
    _finished_updates(path, config)
  except UserError:
    return False
  return True


def _is_sound(line):
  """Returns whether a line's figures are numbers."""
  figures = [line[name] for name in (*FIGURES, 'floor') if name in line]
  return all(isinstance(f, int | float) for f in figures if f is not None)


class Measured:
  """The measured rows of a run, in a file, so that none is measured twice.

  Each line is a row's identity, its figures, and under `metric` the protocol
  that they were measured by.
  """

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'evaluations.jsonl'

  def find(self, row, protocol):
    """Returns the newest line of a Row by that protocol, or None."""
    wanted = {**row.identity, 'metric': protocol}
    for line in reversed(files.read_jsonl(self._path)):
      if wanted.items() <= line.items() and _is_sound(line):
        return line
    return None

  def newest_protocol(self):
    """Returns the protocol of the newest line, or None."""
    protocols = [line.get('metric') for line in files.read_jsonl(self._path)]
    # Earlier versions said less; such lines count as not measured.
    whole = [p for p in protocols if isinstance(p, dict) and p.keys() >= _SAYS]
    return whole[-1] if whole else None

  def add(self, row, protocol, figures):
    """Adds a Row's figures."""
    files.append_jsonl(
      self._path, {**row.identity, **figures, 'metric': protocol}
    )
