"""The training loop, with updates that cost nothing."""

import contextlib
import errno
import itertools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation import checkpoints
from diffusion_distillation.checkpoints import store
from diffusion_distillation.checkpoints.store import CheckpointFolder, Saver
from diffusion_distillation.runtime import devices, files, signals
from diffusion_distillation.runtime.errors import DivergedError, UserError
from diffusion_distillation.runtime.log import RunLog, without_times
from diffusion_distillation.training import loop, metrics
from diffusion_distillation.training.loop import Stage, train_stage
from diffusion_distillation.training.state import create_state
from tests.checkpoints.toy import CARD
from tests.conftest import tiny_config

NUM_UPDATES = 7


class KilledError(Exception):
  """Stands in for the end of the process."""


def toy_step(state, batch, key):
  """Adds the batch and noise of the step, so that the order matters."""
  key = jax.random.fold_in(key, state.step)
  w = 0.9 * state.params['w'] + jnp.mean(batch['x']) + jax.random.normal(key)
  w = jax.lax.pmean(w, 'batch')
  loss = jnp.where(jnp.any(batch['x'] == 666), jnp.nan, w)
  metrics = {'loss': loss, 'grad_norm': w, 'learning_rate': w}
  w = jnp.where(jnp.any(batch['x'] == 667), jnp.inf, w)
  return state.replace(step=state.step + 1, params={'w': w}), metrics


@pytest.fixture(scope='module')
def compiled():
  return devices.compile_step(toy_step, in_axes=(0, 0, None))


def begin(ema_decay=0.0):
  return create_state(
    {'w': jnp.float32(1)},
    optax.identity(),
    num_updates=NUM_UPDATES,
    ema_decay=ema_decay,
  )


def no_evaluation(weights, card, name, step):
  raise AssertionError('nothing is to be evaluated')


def data(at=None, happens=None, bad_at=None, bad=666):
  """Returns the `batches` of a Stage: batch i is full of i.

  Args:
    at: index of a batch before which something happens.
    happens: what, a function.
    bad_at: index of the batch that is full of `bad` instead.
    bad: 666 makes the loss nan, 667 the weights infinite.
  """

  def batches(*, start):
    for i in itertools.count(start):
      if i == at:
        happens()
      yield {'x': np.full(4, bad if i == bad_at else i, np.float32)}

  return batches


def fails(error=KilledError):
  def fail():
    raise error

  return fail


def sigterm():
  # Without a handler, the signal would end the tests.
  assert callable(signal.getsignal(signal.SIGTERM))
  os.kill(os.getpid(), signal.SIGTERM)


def run(
  compiled,
  workdir,
  *,
  batches=None,
  kill_at=None,
  begin=begin,
  evaluate=no_evaluation,
  eval_every=None,
  save_every=0,
  num_updates=NUM_UPDATES,
):
  """Returns the weights after training, and the lines of the log."""
  train = tiny_config().train
  train.update(log_loss_every_steps=2, checkpoint_every_secs=save_every)
  train.eval_every_steps = eval_every
  log = RunLog(workdir)
  try:
    with signals.StopFlag() as stop, Saver() as saver:

      def kill():
        saver.wait()  # so that there is something to resume from
        raise KilledError

      stage = Stage(
        name='teacher',
        step_name='toy_step',
        start=lambda: devices.replicate(begin()),
        template=jax.eval_shape(begin),
        num_updates=num_updates,
        flops=lambda: 1e6,
        update=lambda state, batch: compiled(state, batch, jax.random.key(0)),
        batches=batches or data(kill_at, kill),
        train=train,
        checkpoints=CheckpointFolder(workdir / 'checkpoints'),
        card=CARD,
        saver=saver,
        log=log,
        evaluate=evaluate,
        stop=stop,
      )
      weights = devices.unreplicate(train_stage(stage))
  finally:
    log.close()
  return weights, read_log(workdir)


def read_log(workdir):
  return without_times(files.read_jsonl(workdir / 'metrics.jsonl'))


def logged(lines, name='loss'):
  return [line['step'] for line in lines if name in line]


def last_saved(workdir):
  return int(checkpoints.find(workdir).name)


@pytest.fixture(scope='module')
def whole(compiled, tmp_path_factory):
  """The result of a run that nothing interrupts."""
  return run(compiled, tmp_path_factory.mktemp('whole'))


@pytest.mark.parametrize('stops', [[1], [3], [4, 5], [6, 6]])
def test_resuming_gives_the_same_bits_and_the_same_log(
  compiled, whole, tmp_path, stops
):
  for stop in stops:
    with pytest.raises(KilledError):
      run(compiled, tmp_path, kill_at=stop)
  assert run(compiled, tmp_path) == whole
  assert logged(whole[1]) == [2, 4, 6, 7]


@pytest.mark.parametrize('stops', [[2], [5], [1, 4]])
def test_a_signal_saves_between_log_lines_and_nothing_is_lost(
  compiled, whole, tmp_path, stops
):
  # The metrics since the last line of the log are kept, too.
  before = signal.getsignal(signal.SIGTERM)
  for stop in stops:
    with pytest.raises(signals.Stopped, match=f'teacher at update {stop + 1};'):
      run(compiled, tmp_path, batches=data(stop, sigterm), save_every=999)
    assert last_saved(tmp_path) == stop + 1
    assert signal.getsignal(signal.SIGTERM) is before
  assert run(compiled, tmp_path) == whole


def test_a_signal_at_the_last_update_stops_too(compiled, whole, tmp_path):
  with pytest.raises(signals.Stopped, match='teacher at update 7;'):
    run(compiled, tmp_path, batches=data(6, sigterm))
  assert run(compiled, tmp_path, kill_at=0) == whole


def test_a_signal_before_the_first_update_ends_the_process(compiled, tmp_path):
  # The first update compiles, and nothing would be lost.
  before, seen = signal.getsignal(signal.SIGTERM), []

  def look():
    seen.append(signal.getsignal(signal.SIGTERM))

  run(compiled, tmp_path / '0', batches=data(0, look))
  run(compiled, tmp_path / '1', batches=data(1, look))
  assert seen[0] is before and seen[1] is not before


def test_an_evaluation_can_be_killed_and_is_made_again(compiled, tmp_path):
  def evaluate(weights, card, name, step):
    # A signal ends the process at once: what took long has been saved.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert last_saved(folder) == step
    calls.append(step)
    if calls in ([3], [3, 3]):
      raise KilledError
    return {'frechet_distance': float(weights['w'])}

  settings = {'evaluate': evaluate, 'eval_every': 3, 'save_every': 999}
  calls, folder = [], tmp_path / 'parts'
  for _ in range(2):
    with pytest.raises(KilledError):
      run(compiled, folder, **settings)
  # After an evaluation, the first signal again only asks to stop.
  with pytest.raises(signals.Stopped, match='at update 5'):
    run(compiled, folder, batches=data(4, sigterm), **settings)
  got = run(compiled, folder, **settings)
  assert calls == [3, 3, 3, 6]
  folder = tmp_path / 'whole'
  assert got == run(compiled, folder, **settings)
  assert logged(got[1], 'frechet_distance') == [3, 6]


def test_a_signal_just_before_an_evaluation_is_obeyed(
  compiled, whole, tmp_path, monkeypatch
):
  write = loop._write

  def write_late(*args):
    sigterm()
    write(*args)

  monkeypatch.setattr(loop, '_write', write_late)
  with pytest.raises(signals.Stopped, match='at update 3'):
    run(compiled, tmp_path, eval_every=3, save_every=999)
  monkeypatch.undo()
  assert last_saved(tmp_path) == 3
  assert run(compiled, tmp_path) == whole


def test_evaluations_are_of_the_average_and_are_logged(compiled, tmp_path):
  seen = []

  def evaluate(weights, card, name, step):
    seen.append((name, step, card))
    return {'frechet_distance': float(weights['w'])}

  _, log = run(
    compiled,
    tmp_path,
    begin=lambda: begin(ema_decay=0.5),
    evaluate=evaluate,
    eval_every=3,
  )
  assert seen == [('teacher', 3, CARD), ('teacher', 6, CARD)]
  # The toy step leaves the average at 1, and the weights go elsewhere.
  figures = [line.get('frechet_distance') for line in log]
  assert figures == [None, 1.0, None, None, 1.0, None]


@pytest.mark.parametrize(
  'error',
  [
    UserError('cat.png cannot be read'),
    FileNotFoundError(2, 'No such file or directory', 'cat.png'),
  ],
)
def test_missing_data_do_not_lose_finished_updates(
  compiled, whole, tmp_path, error
):
  with pytest.raises(type(error), match=r'cat\.png'):
    run(compiled, tmp_path, batches=data(3, fails(error)), save_every=999)
  assert last_saved(tmp_path) == 3
  assert run(compiled, tmp_path) == whole


@pytest.mark.parametrize('kind', [ValueError, KeyError])
def test_a_bug_is_not_reported_as_an_error_of_the_user(
  compiled, tmp_path, kind
):
  with pytest.raises(kind, match='a bug'):
    run(compiled, tmp_path, batches=data(3, fails(kind('a bug'))))

  def update(*args):
    raise kind('a bug')

  with pytest.raises(kind, match='a bug'):
    run(update, tmp_path / 'new')


def test_a_training_can_be_made_longer(compiled, tmp_path):
  want = run(compiled, tmp_path / 'whole', num_updates=9)
  folder = tmp_path / 'parts'
  run(compiled, folder)
  got = run(compiled, folder, num_updates=9)
  assert got[0] == want[0]
  # The log has a line where the shorter training ended.
  assert logged(got[1]) == [2, 4, 6, 7, 8, 9]
  assert run(compiled, folder, kill_at=0, num_updates=9) == got


def test_a_failed_save_ends_the_training(
  compiled, whole, tmp_path, monkeypatch
):
  def full(path, *args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  run(compiled, tmp_path, num_updates=4)
  monkeypatch.setattr(store.ocp.Checkpointer, 'save', full)
  with pytest.raises(UserError, match=r'cannot write .*7.*No space') as caught:
    run(compiled, tmp_path, save_every=999)
  assert '\n' not in str(caught.value)
  monkeypatch.undo()
  # What was saved before is intact, and the run can be resumed.
  assert run(compiled, tmp_path) == whole


def test_the_log_of_a_full_disk_ends_the_training(
  compiled, whole, tmp_path, monkeypatch
):
  write, lines = files.append_jsonl, []

  def full(path, entry):
    lines.append(entry)
    with files.writing(path):
      if len(lines) == 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(path, entry)

  monkeypatch.setattr(files, 'append_jsonl', full)
  with pytest.raises(UserError, match=r'cannot write .*metrics\.jsonl'):
    run(compiled, tmp_path)
  monkeypatch.undo()
  assert run(compiled, tmp_path) == whole


def test_later_updates_do_not_change_a_snapshot(compiled):
  state = devices.replicate(begin())
  batch = devices.shard([{'x': np.arange(4, dtype=np.float32)}])
  state, _ = compiled(state, batch, jax.random.key(0))
  snapshot = devices.snapshot(state)
  want = devices.unreplicate(state)
  for _ in range(3):
    state, _ = compiled(state, batch, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, devices.to_host(snapshot), want)
  assert devices.unreplicate(state).params['w'] != want.params['w']


def test_a_finished_training_is_not_done_again(compiled, tmp_path):
  want = run(compiled, tmp_path)
  assert run(compiled, tmp_path, kill_at=0) == want


def test_a_loss_that_is_not_finite_stops_with_its_update(compiled, tmp_path):
  with pytest.raises(
    DivergedError, match=r'teacher: loss nan .* at update 6;'
  ) as caught:
    run(compiled, tmp_path, batches=data(bad_at=5))
  # The last good checkpoint is there, and the log ends before.
  good = checkpoints.find(tmp_path)
  assert int(good.name) <= 5
  assert f'last good checkpoint is {good};' in str(caught.value)
  assert logged(read_log(tmp_path)) == [2, 4]


def test_a_loss_that_is_never_finite_names_no_checkpoint(compiled, tmp_path):
  with pytest.raises(DivergedError, match='last good checkpoint is none;'):
    run(compiled, tmp_path, batches=data(bad_at=0))


def test_weights_that_are_not_finite_are_not_saved(compiled, tmp_path):
  # The loss of the last update is still finite.
  with pytest.raises(DivergedError, match='not finite after update 7;'):
    run(compiled, tmp_path, batches=data(bad_at=6, bad=667))
  assert last_saved(tmp_path) <= 6


def test_a_gradient_that_is_not_finite_is_found():
  ones = np.ones(3, np.float32)
  found = {'loss': ones, 'grad_norm': np.array([1, np.inf, 1], np.float32)}
  assert metrics.not_finite(found, 7) == (
    'loss 1.0 and gradient norm inf at update 6'
  )
  assert metrics.not_finite({'loss': ones, 'grad_norm': ones}, 7) is None
  assert metrics.not_finite({}, 7) is None


def test_metrics_pass_through_json_to_the_last_bit():
  calls = [{'loss': np.full((4, n), np.float32(1 / 3 + n))} for n in (1, 2)]
  found = metrics.fetch(calls)
  assert found['loss'].shape == (3,)
  again = metrics.fetch(metrics.from_json(metrics.to_json(found)))
  np.testing.assert_array_equal(again['loss'], found['loss'])
  assert again['loss'].dtype == np.float32
  assert metrics.fetch([]) == metrics.to_json({}) == {}
  assert metrics.from_json(None) == metrics.from_json({}) == []


def test_the_progress_is_of_all_processes_together(compiled, tmp_path):
  seconds = []
  for stop in (3, 5, None):
    batches = data() if stop is None else data(stop, sigterm)
    with contextlib.suppress(signals.Stopped):
      run(compiled, tmp_path, batches=batches, save_every=999)
    progress = checkpoints.read_progress(tmp_path)
    seconds.append(progress['seconds'])
  assert 0 < seconds[0] < seconds[1] < seconds[2]
  assert progress['final_loss'] == read_log(tmp_path)[-1]['loss']
  assert progress['compilations'] == devices.compilations['toy_step']


def test_tensorboard_shows_what_the_log_has_after_a_kill(compiled, tmp_path):
  with pytest.raises(KilledError):
    run(compiled, tmp_path, kill_at=5)
  for _ in range(2):  # the second finds the training finished
    _, log = run(compiled, tmp_path)
    (events,) = (tmp_path / 'tensorboard' / 'teacher').iterdir()
    assert events.read_bytes().count(b'loss') == len(logged(log)) == 4


def test_a_torn_line_of_the_log_is_dropped(compiled, whole, tmp_path):
  with pytest.raises(KilledError):
    run(compiled, tmp_path, kill_at=5)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"stage": "teach')
  assert run(compiled, tmp_path) == whole


def test_updates_per_call_divide_all_updates(monkeypatch):
  train = tiny_config().train
  train.substeps = 10
  assert devices.updates_per_call(train, 600) == 1  # on CPU
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert devices.updates_per_call(train, 600) == 10
  assert devices.updates_per_call(train, 604) == 2


def test_several_updates_per_call_cross_the_intervals(
  compiled, whole, tmp_path, monkeypatch
):
  def evaluate(weights, card, name, step):
    return {'frechet_distance': float(weights['w'])}

  monkeypatch.setattr(devices, 'updates_per_call', lambda train, total: 3)
  settings = {'evaluate': evaluate, 'eval_every': 5, 'save_every': 999}
  with pytest.raises(signals.Stopped, match='at update 6'):
    run(compiled, tmp_path, batches=data(4, sigterm), **settings)
  weights, log = run(compiled, tmp_path, **settings)
  np.testing.assert_allclose(weights['w'], whole[0]['w'], rtol=1e-6)
  # 2 was crossed at 3, 4 and 6 at 6, and 5 at 6; then the last update.
  assert logged(log) == [3, 6, 7]
  assert logged(log, 'frechet_distance') == [6]


@pytest.mark.parametrize('where', ['update', 'snapshot'])
def test_full_devices_get_one_line(compiled, tmp_path, monkeypatch, where):
  def fail(*args):
    raise jax.errors.JaxRuntimeError(message)

  def start():
    run(fail if where == 'update' else compiled, tmp_path)

  if where == 'snapshot':
    monkeypatch.setattr(devices, 'snapshot', fail)
  message = 'RESOURCE_EXHAUSTED: Out of memory'
  with pytest.raises(UserError, match=r'teacher: out of memory .*remat=True'):
    start()
  # Other errors of the devices are bugs.
  message = 'INTERNAL: something else'
  with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
    start()
