"""The rows of a report: what is to be measured, and what has been measured."""

import copy
import dataclasses
import json
import os
import pathlib
import re

from diffusion_distillation.checkpoints import find, read_card, read_checksum
from diffusion_distillation.runtime import files, run_folder
from diffusion_distillation.runtime.errors import DamagedError, UserError
from diffusion_distillation.samplers import canonical, make_sampler
from diffusion_distillation.training.config import teacher_num_steps

# Keys of the figures, in the order of the columns; a row has some of them.
FIGURES = (
  'frechet_distance',
  'frechet_distance_error',
  'frechet_distance_heldout',
  'sfid',
  'inception_score',
  'inception_score_std',
  'classifier_score',
  'precision',
  'recall',
  'density',
  'coverage',
  'memorization',
  'teacher_rmse',
  'kid',
  'images_per_second',
)
# Keys that every protocol has.
_PROTOCOL_KEYS = {
  'label',
  'dataset',
  'features',
  'num_samples',
  'reference',
  'heldout',
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One network, sampled by one sampler in one number of steps.

  Attributes:
    network: 'teacher', or how the round distills it: 'student', or the name of
      the method if there are several.
    round: name of the round that trained it.
    sampler: canonical spelling of the sampler, such as 'ancestral:gamma=0.3'.
    num_steps: sampling steps.
    updates: updates of the network; None for a teacher from elsewhere.
    checksum: checksum that identifies the weights; for a teacher from elsewhere
      their `weights_checksum`, or None if the run does not know it.
    path: path of the checkpoint.
  """

  network: str
  round: str
  sampler: str
  num_steps: int
  updates: int | None
  checksum: str | None
  path: pathlib.Path | str

  @property
  def nfe(self):
    """Network evaluations per image."""
    return make_sampler(self.sampler).nfe(self.num_steps)

  @property
  def draws_noise(self):
    """Whether the sampler draws noise in its steps."""
    return make_sampler(self.sampler).draws_noise and self.num_steps > 1

  @property
  def name(self):
    """A file name, such as 'student_00004_ddim_00004'."""
    # Each special character becomes one dash, so that x=1 and x=-1 have
    # different names.
    sampler = re.sub(r'[^\w.+]', '-', self.sampler)
    return f'{self.round}_{sampler}_{self.num_steps:05}'

  @property
  def identity(self):
    """The JSON values that identify the row among all rows of the run."""
    return {
      'round': self.round,
      'sampler': self.sampler,
      'num_steps': self.num_steps,
      'updates': self.updates,
      'checksum': self.checksum,
    }

  @property
  def description(self):
    """The identity as text, which is stored in the row's pictures."""
    return json.dumps(self.identity)

  def grid(self, workdir):
    """Returns the path of the picture of the row's samples."""
    return workdir / 'samples' / f'{self.name}.png'


def plan_rows(config, workdir, partial=False):
  """Returns the Rows of a run, without duplicates.

  Every student is sampled by `eval.student_samplers` at its own number of
  steps; one that is made for another sampler, by that alone, at all numbers of
  steps that it is made for. The teacher is sampled by `eval.samplers` at
  `eval.num_steps`, or else at its own number of steps and those of the
  students; if it is made for several numbers of steps, by its own sampler at
  them. Rows of more steps than `eval.max_num_steps` are left out, and so
  are rows of the teacher of more evaluations than `eval.max_nfe`, unless they
  have its own sampler.

  Args:
    config: config of the run.
    workdir: absolute path of the run folder.
    partial: whether to leave out rounds whose training is not finished.

  Raises:
    UserError: the training of a round is not finished.
  """
  run = run_folder.read_run(workdir)
  rounds = run['rounds']
  # A teacher from elsewhere is not a round, but the parent of the first round.
  teachers = [r['parent'] or r['name'] for r in rounds[:1]]
  students = [r for r in rounds if r['parent'] is not None]
  steps = [teacher_num_steps(config)]
  for each in students:
    steps += [each['num_steps'], *each.get('more_steps', ())]
  wanted = _rows_of_students(config, students)
  samplers, counts = config.eval.samplers, config.eval.num_steps or steps
  if rounds[0].get('more_steps') and not students:  # a consistency model
    samplers = [rounds[0]['sampler']]
    counts = [rounds[0]['num_steps'], *rounds[0]['more_steps']]
  wanted += [
    ('teacher', name, spelling, num_steps)
    for name in teachers
    for spelling in map(canonical, samplers)
    for num_steps in counts
  ]
  limit, max_nfe, rows = config.eval.max_num_steps, config.eval.max_nfe, []
  for network, name, spelling, num_steps in dict.fromkeys(wanted):
    if limit is not None and num_steps > limit:
      continue
    path, updates = workdir / name, None
    if network == 'teacher' and run['teacher'] is not None:
      path, checksum = _outside_teacher(run, config), run['teacher_checksum']
    elif partial and not is_finished(path):
      continue
    else:
      updates, checksum = finished_updates(path), read_checksum(path)
    row = Row(network, name, spelling, num_steps, updates, checksum, path)
    compared = network == 'teacher' and spelling != canonical(config.sampler)
    if not (compared and max_nfe is not None and row.nfe > max_nfe):
      rows.append(row)
  return rows


def _rows_of_students(config, students):
  """Returns (network, round, sampler, number of steps) of each row."""
  common = list(map(canonical, config.eval.student_samplers))
  own = [canonical(each.get('sampler') or 'ddim') for each in students]
  sampled = [
    (spelling, each)
    for spelling in dict.fromkeys([*common, *own])
    for each, its in zip(students, own, strict=True)
    if spelling in (common if its in ('ddim', *common) else [its])
  ]
  return [
    (
      each['name'].rpartition('_')[0],
      each['name'],
      spelling,
      make_sampler(spelling).steps_per_student_step * count,
    )
    for spelling, each in sampled
    for count in (each['num_steps'], *each.get('more_steps', ()))
  ]


def solution_row(config, workdir):
  """Returns the Row of the teacher's solution, or None if there is none.

  The solution is what DDIM draws in `eval.solution_num_steps` steps. Without
  this number there is none, nor for a consistency model that has no teacher.

  Args:
    config: config of the run.
    workdir: absolute path of the run folder.
  """
  num_steps = config.eval.solution_num_steps
  first = run_folder.read_run(workdir)['rounds'][0]
  if num_steps is None or (first['parent'] is None and first.get('more_steps')):
    return None
  config = copy.deepcopy(config)
  config.eval.update(
    samplers=('ddim',),
    student_samplers=(),
    num_steps=(num_steps,),
    max_num_steps=None,
    max_nfe=None,
  )
  rows = plan_rows(config, workdir)
  return next(row for row in rows if row.network == 'teacher')


def _outside_teacher(run, config):
  """Returns the path of a teacher from elsewhere, which may have moved."""
  path = config.distillation.teacher_checkpoint_path
  same = run['config']['distillation']['teacher_checkpoint_path'] == path
  # `path` may have a newer checkpoint by now.
  return run['teacher'] if same and os.path.exists(run['teacher']) else path


def finished_updates(path):
  """Returns the number of updates of a finished training.

  Raises:
    UserError: there is no training, or it is not finished.
  """
  try:
    card = read_card(path)
  except DamagedError:
    raise
  except UserError as error:
    raise UserError(f'{error}; --mode=train trains it') from error
  if not card.is_finished:
    raise UserError(
      f'{path} has had {card.updates} of {card.num_updates} updates; '
      '--mode=train finishes it'
    )
  return card.updates


def is_finished(path):
  """Returns whether a round's folder holds a finished training."""
  try:
    find(path)
  except UserError:
    return False
  return read_card(path).is_finished


class Measured:
  """The measured rows of a run, in a file, so that none is measured twice.

  Each line is a row's identity, its figures, and under `metric` the protocol
  by which they were measured.
  """

  def __init__(self, workdir):
    self._path = pathlib.Path(workdir) / 'evaluations.jsonl'

  def find(self, row, protocol):
    """Returns the newest line of a Row by that protocol, or None."""
    wanted = {**row.identity, 'metric': protocol}
    for line in reversed(files.read_jsonl(self._path)):
      if wanted.items() <= line.items() and _has_numbers(line):
        return line
    return None

  def newest_protocol(self):
    """Returns the protocol of the newest line, or None."""
    protocols = [line.get('metric') for line in files.read_jsonl(self._path)]
    # Lines of earlier versions have fewer keys and count as not measured.
    complete = [
      p for p in protocols if isinstance(p, dict) and p.keys() >= _PROTOCOL_KEYS
    ]
    return complete[-1] if complete else None

  def add(self, row, protocol, figures):
    """Adds a Row's figures."""
    files.append_jsonl(
      self._path, {**row.identity, **figures, 'metric': protocol}
    )


def _has_numbers(line):
  """Returns whether all figures of a line are numbers."""
  figures = [line[name] for name in (*FIGURES, 'floor') if name in line]
  return all(isinstance(f, int | float) for f in figures if f is not None)
