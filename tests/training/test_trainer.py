"""The rounds of a run, with steps that only record what they are given."""

import contextlib
import dataclasses
import shutil

import jax
import numpy as np
import pytest

from diffusion_distillation import checkpoints
from diffusion_distillation.networks.mlp import MLP
from diffusion_distillation.runtime import signals
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.training import trainer
from diffusion_distillation.training.config import check
from tests.conftest import tiny_config
from tests.training.test_loop import sigterm

LENGTHS = {4: 2, 2: 3, 1: 1}  # lengths of students; the teacher's is 4


class Recorder:
  """Stands in for the compiled steps; an update adds 1 to the weights.

  The EMA becomes the weights + 100, so that the two can be told apart.

  Attributes:
    made: for each compiled step, its name, denoiser and config.train.
    begun: lengths of the trainings that were begun.
    calls: for each update, the name of its step, its state, and (teacher,
      num_steps, batch, data of the key).
  """

  def __init__(self, patch, stop_at=None):
    """Takes a MonkeyPatch, and the name of a step that gets a signal."""
    self.made, self.begun, self.calls = [], [], []
    self._stop_at = stop_at
    self._make, self._compile = trainer.make_step, trainer.devices.compile_start
    patch.setattr(trainer, 'make_step', self.make_step)
    patch.setattr(trainer.devices, 'compile_step', self.compile_step)
    patch.setattr(trainer.devices, 'compile_start', self.compile_start)

  def make_step(self, name, objective, denoiser, optimizer, train):
    self.made.append((name, denoiser, train))
    return self._make(name, objective, denoiser, optimizer, train)

  def compile_start(self, start):
    compiled = self._compile(start)

    def begin(weights, num_updates):
      self.begun.append(int(num_updates))
      return compiled(weights, num_updates)

    return begin

  def compile_step(self, step, in_axes):
    del in_axes

    def updates(state, teacher, num_steps, batch, key):
      names = [name for name, _, _ in self.calls]
      given = teacher, num_steps, batch, jax.random.key_data(key)
      self.calls.append((step.__name__, state, given))
      if step.__name__ == self._stop_at and self._stop_at in names:
        sigterm()
      ones = np.ones((jax.device_count(), 1), np.float32)
      metrics = {'loss': ones, 'grad_norm': ones, 'learning_rate': ones}
      params = jax.tree.map(lambda p: p + 1, state.params)
      average = state.ema_params
      if average is not None:
        average = jax.tree.map(lambda p: p + 100, params)
      state = state.replace(
        step=state.step + 1, params=params, ema_params=average
      )
      return state, metrics

    return updates


def ladder(lengths, **changes):
  """Returns the tiny config with these rounds."""
  config = tiny_config()
  with config.unlocked():
    config.distillation.steps_per_iter = lengths
    config.distillation.start_num_steps = 2 * max(lengths)
    config.distillation.end_num_steps = min(lengths)
    config.distillation.update(changes)
  return config


def train(config, workdir, teacher=None, stop_at=None):
  """Returns the Recorder of all trainings of a run."""
  dataset, _ = check(config)
  workdir.mkdir(exist_ok=True)
  log = RunLog(workdir)
  with (
    pytest.MonkeyPatch.context() as patch,
    signals.StopFlag() as stop,
    contextlib.closing(log),
  ):
    recorder = Recorder(patch, stop_at)
    evaluate = None  # nothing is evaluated
    every = trainer.Trainer(
      config, dataset, workdir, teacher, log, evaluate, stop
    )
    every.check()
    every.run()
  return recorder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder and the Recorder of a whole run."""
  config = ladder(LENGTHS)
  config.teacher.model.args.dropout = 0.4
  config.model.args.dropout = 0.1
  workdir = tmp_path_factory.mktemp('run')
  return workdir, train(config, workdir)


@pytest.fixture
def copy(run, tmp_path):
  """A copy of the folder of that run."""
  return shutil.copytree(run[0], tmp_path / 'copy')


def leaf(weights):
  return np.asarray(jax.tree.leaves(weights)[0]).reshape(-1)[0]


def same(tree, other):
  """Returns whether two trees have the same bits."""
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


def folders(workdir):
  return sorted(
    str(path.relative_to(workdir)) for path in workdir.glob('*/checkpoints/*')
  )


def test_each_round_distills_the_one_before(run):
  workdir, recorder = run
  calls = recorder.calls
  names = [name for name, _, _ in calls]
  assert names == ['train_step'] * 4 + ['distill_step'] * 6
  assert recorder.begun == [4, 2, 3, 1]

  # The teacher has no teacher. Its EMA is what is distilled, and then each
  # student's weights.
  assert all(teacher is None for _, _, (teacher, *_) in calls[:4])
  before = leaf(checkpoints.load(workdir / 'teacher').weights)
  np.testing.assert_allclose(before, leaf(calls[3][1].params) + 101)
  rounds = [calls[4:6], calls[6:9], calls[9:10]]
  for updates, num_steps in zip(rounds, LENGTHS, strict=True):
    for i, (_, state, (teacher, steps, _, _)) in enumerate(updates):
      np.testing.assert_allclose(leaf(teacher), before)
      np.testing.assert_allclose(leaf(state.params), before + i)
      assert int(steps) == num_steps
      assert int(np.asarray(state.step).reshape(-1)[0]) == i
      assert int(np.asarray(state.num_updates).reshape(-1)[0]) == len(updates)
    before += len(updates)
    saved = checkpoints.load(workdir / f'student_{num_steps:05}')
    np.testing.assert_allclose(leaf(saved.weights), before)


def test_each_round_has_its_own_noise_and_order_of_images(run):
  calls = run[1].calls
  firsts = [calls[i][2] for i in (0, 4, 6, 9)]
  assert len({key.tobytes() for _, _, _, key in firsts}) == 4
  assert len({given[2]['image'].tobytes() for given in firsts}) == 4
  # Within a round the key is the same, but the step and the images change.
  assert len({given[3].tobytes() for _, _, given in calls[:4]}) == 1
  assert len({given[2]['image'].tobytes() for _, _, given in calls[:4]}) == 4


def test_rounds_of_the_same_step_count_differ_too(run, tmp_path, monkeypatch):
  def twice(config):
    found = trainings(config)
    first = found[1].objective.rounds[0]
    again = dataclasses.replace(first, name='again', parent=first.name)
    objective = dataclasses.replace(found[1].objective, rounds=(first, again))
    return [found[0], dataclasses.replace(found[1], objective=objective)]

  trainings = trainer.trainings
  monkeypatch.setattr(trainer, 'trainings', twice)
  monkeypatch.setattr(
    trainer,
    'rounds',
    lambda config: [r for t in twice(config) for r in t.objective.rounds],
  )
  calls = train(ladder({4: 2}), tmp_path).calls
  first, again = (calls[i][2] for i in (4, 6))
  assert same(first[2:], run[1].calls[4][2][2:])  # as in a run without `again`
  assert not same(first[3], again[3])
  assert not same(first[2]['image'], again[2]['image'])


def test_another_seed_changes_parameters_noise_and_order(run, tmp_path):
  config = ladder({2: 1})
  config.seed = 1
  _, state, given = train(config, tmp_path).calls[0]
  _, state_0, given_0 = run[1].calls[0]
  assert not same(state.params, state_0.params)
  assert not same(given[2]['image'], given_0[2]['image'])
  assert not same(given[3], given_0[3])


def test_teacher_and_students_have_their_own_settings(run):
  assert [
    (name, denoiser.network.dropout, train.learning_rate, train.ema_decay)
    for name, denoiser, train in run[1].made
  ] == [('train_step', 0.4, 1e-3, 0.999), ('distill_step', 0.1, 1e-3, 0.0)]


def test_the_cards_say_where_weights_come_from(run):
  workdir, _ = run
  rounds = [
    ('teacher', None, 'denoising', 64, 4),
    ('student_00004', 'teacher', 'progressive', 4, 2),
    ('student_00002', 'student_00004', 'progressive', 2, 3),
    ('student_00001', 'student_00002', 'progressive', 1, 1),
  ]
  for name, parent, objective, num_steps, num_updates in rounds:
    card = checkpoints.read_card(workdir / name)
    assert card.parent == (parent and str(workdir / parent))
    assert card.objective == objective and card.sampler == 'ddim'
    assert card.num_steps == num_steps
    assert card.updates == card.num_updates == num_updates and card.is_finished
    dropout = 0.1 if parent else 0.4
    assert card.model['args']['dropout'] == dropout
    assert card.config['model']['args']['dropout'] == dropout


def test_a_finished_run_begins_nothing(run, copy):
  recorder = train(ladder(LENGTHS), copy)
  assert recorder.calls == recorder.begun == []
  assert folders(copy) == folders(run[0])


@pytest.mark.parametrize(
  ('missing', 'later'),
  [('teacher', 'student_00004'), ('student_00002', 'student_00001')],
)
def test_a_round_is_not_trained_again_beside_its_students(
  copy, missing, later, monkeypatch
):
  shutil.rmtree(copy / missing)
  before = folders(copy)
  monkeypatch.setattr(trainer, 'train_stage', None)
  # Another length would make it another teacher.
  for length in (4, 5):
    config = ladder(LENGTHS)
    config.teacher.train.num_updates = length
    with pytest.raises(UserError, match=f'{later} was distilled') as caught:
      train(config, copy)
    assert f'{copy / missing} has no checkpoint' in str(caught.value)
    assert '\n' not in str(caught.value)
  assert folders(copy) == before
  # It can be trained once the later rounds are gone.
  monkeypatch.undo()
  for path in copy.glob('student_*'):
    shutil.rmtree(path)
  assert len(train(config, copy).begun) == (4 if missing == 'teacher' else 3)


def test_a_data_set_with_other_classes_is_refused_by_their_number(copy):
  config = ladder(LENGTHS)
  classes = not config.dataset.args.class_conditional
  config.dataset.args.class_conditional = classes
  with pytest.raises(
    UserError, match=r'classes, and the data set has'
  ) as error:
    train(config, copy)
  assert 'give the same labels' in str(error.value)
  assert '\n' not in str(error.value)


def test_a_round_keeps_its_length_once_it_was_distilled(copy):
  for number in (4, 2):
    config = ladder({**LENGTHS, number: LENGTHS[number] + 1})
    with pytest.raises(UserError, match=f'distilled from student_{number:05}'):
      train(config, copy)
  with pytest.raises(UserError, match='had 2 updates, more than the 1 of'):
    train(ladder({**LENGTHS, 4: 1}), copy)
  # The last round may become longer.
  recorder = train(ladder({**LENGTHS, 1: 3}), copy)
  assert len(recorder.calls) == 2 and recorder.begun == []
  assert checkpoints.read_card(copy / 'student_00001').updates == 3


def test_a_round_that_the_config_leaves_out_still_counts(copy):
  with pytest.raises(UserError, match='was distilled from student_00002'):
    train(ladder({4: 2, 2: 4}), copy)
  shutil.rmtree(copy / 'student_00002')
  with pytest.raises(UserError, match='student_00001 was distilled from it'):
    train(ladder({4: 2, 2: 3}), copy)


def test_a_run_folder_may_be_moved(run, copy):
  # The cards then name parents that are elsewhere.
  recorder = train(ladder({**LENGTHS, 1: 2}), copy)
  assert len(recorder.calls) == 1
  teacher = checkpoints.load(run[0] / 'student_00002').weights
  np.testing.assert_allclose(leaf(recorder.calls[0][2][0]), leaf(teacher))


def test_a_teacher_from_elsewhere_is_distilled(run, tmp_path):
  teacher = checkpoints.load(run[0] / 'student_00004')
  config = ladder({2: 1, 1: 1}, teacher_checkpoint_path='elsewhere')
  recorder = train(config, tmp_path, teacher)
  assert [name for name, _, _ in recorder.calls] == ['distill_step'] * 2
  _, state, (given, num_steps, _, _) = recorder.calls[0]
  for weights in (state.params, given):
    assert same(trainer.devices.unreplicate(weights), teacher.weights)
  assert int(num_steps) == 2
  first, second = (
    checkpoints.read_card(tmp_path / f'student_{n:05}') for n in (2, 1)
  )
  assert first.parent == str(teacher.path)
  assert first.parent_checksum == teacher.checksum
  assert second.parent == str(tmp_path / 'student_00002')
  assert second.parent_checksum is None
  # A finished run does not need it.
  assert train(config, tmp_path).calls == []
  shutil.rmtree(tmp_path / 'student_00001')
  shutil.rmtree(tmp_path / 'student_00002' / 'checkpoints' / '1')
  with pytest.raises(UserError, match=r'student_00002 .* needs its teacher'):
    train(config, tmp_path)


@pytest.mark.parametrize('step', ['train_step', 'distill_step'])
def test_a_stopped_run_resumes_with_the_same_updates(run, tmp_path, step):
  with pytest.raises(signals.Stopped):
    train(ladder(LENGTHS), tmp_path, stop_at=step)
  recorder = train(ladder(LENGTHS), tmp_path)
  made = {'train_step': 2, 'distill_step': 6}[step]
  want = run[1].calls[made:]
  assert [call[0] for call in recorder.calls] == [call[0] for call in want]
  assert same(
    [call[1:] for call in recorder.calls], [call[1:] for call in want]
  )


def test_a_training_too_short_for_its_ema_gives_a_warning(tmp_path, capsys):
  config = ladder({2: 1})
  train(config, tmp_path / 'a')
  err = capsys.readouterr().err
  assert err.count('warning') == 1
  assert 'teacher has 4 updates, fewer than the 1,000 that' in err
  assert 'train.ema_decay=0.999' in err and 'about the last 2 ' in err
  train(config, tmp_path / 'a')  # which is finished
  assert 'warning' not in capsys.readouterr().err
  config.teacher.train.ema_decay = 0.75  # 4 updates
  train(config, tmp_path / 'b')
  assert 'warning' not in capsys.readouterr().err


@pytest.mark.parametrize('kind', [ValueError, KeyError])
def test_a_bug_in_a_network_shows_its_exception(tmp_path, monkeypatch, kind):
  def call(self, *args, **kwargs):
    raise kind('a bug')

  monkeypatch.setattr(MLP, '__call__', call)
  config = ladder({2: 1})
  check(config)
  with pytest.raises(kind, match='a bug'):
    train(config, tmp_path)
