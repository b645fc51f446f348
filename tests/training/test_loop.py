"""The loop, with updates that cost nothing."""

import errno
import functools
import itertools
import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import step_folder
from diffusion_distillation.checkpoints.checkpoint_folder import (
  CheckpointFolder,
)
from diffusion_distillation.checkpoints.saver import Saver
from diffusion_distillation.runtime import devices, files, metrics, signals
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import Progress, RunLog, duration
from diffusion_distillation.training import loop
from diffusion_distillation.training.stage import Stage
from diffusion_distillation.training.state import create_state
from tests.checkpoints.test_checkpoints import CARD
from tests.conftest import tiny_config

NUM_UPDATES = 7


class KilledError(Exception):
  pass


def toy_step(state, batch, key):
  """Adds the batch and noise of the step: any other order shows."""
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


def make_stage(
  compiled,
  workdir,
  saver,
  log,
  *,
  stop_at=None,
  error=KilledError,
  bad_at=None,
  bad=666,
  begin=begin,
  evaluate=None,
  eval_every=None,
  save_every=0,
  num_updates=NUM_UPDATES,
  followed_by=None,
):
  train = tiny_config().train
  train.update(log_loss_every_steps=2, checkpoint_every_secs=save_every)
  train.eval_every_steps = eval_every

  def batches(*, start):
    for i in itertools.count(start):
      if i == stop_at:
        saver.wait()
        if error is None:  # it is asked to stop
          os.kill(os.getpid(), signal.SIGTERM)
        else:
          raise error
      x = np.full(4, bad if i == bad_at else i, np.float32)
      yield {'x': x}

  return Stage(
    name='teacher',
    step_name='toy_step',
    start=lambda: devices.replicate(begin()),
    template=jax.eval_shape(begin),
    num_updates=num_updates,
    followed_by=followed_by,
    update=lambda state, batch: compiled(state, batch, jax.random.key(0)),
    batches=batches,
    train=train,
    checkpoints=CheckpointFolder(workdir / 'checkpoints'),
    saver=saver,
    card=CARD,
    log=log,
    evaluate=evaluate,
  )


def run(compiled, workdir, **kwargs):
  log = RunLog(workdir)
  try:
    with signals.handled(), Saver() as saver:
      stage = make_stage(compiled, workdir, saver, log, **kwargs)
      weights = loop.run(stage)
  finally:
    log.close()
  return devices.unreplicate(weights), (workdir / 'metrics.jsonl').read_text()


@pytest.mark.parametrize('stops', [[1], [3], [4, 5], [6, 6]])
def test_resuming_gives_the_same_bits_and_the_same_log(
  compiled, tmp_path, stops
):
  want = run(compiled, tmp_path / 'whole')
  for stop in stops:
    with pytest.raises(KilledError):
      run(compiled, tmp_path / 'parts', stop_at=stop)
  got = run(compiled, tmp_path / 'parts')
  assert got[0]['w'] == want[0]['w'] and got[1] == want[1]
  steps = [json.loads(line)['step'] for line in want[1].splitlines()]
  assert steps == [2, 4, 6, 7]


@pytest.mark.parametrize('stops', [[2], [5], [1, 4]])
def test_a_signal_saves_between_log_lines_and_nothing_is_lost(
  compiled, tmp_path, stops
):
  """Not even the metrics since the last line of the log."""
  want = run(compiled, tmp_path / 'whole')
  for stop in stops:
    with pytest.raises(KeyboardInterrupt, match=f'at update {stop + 1}'):
      run(
        compiled, tmp_path / 'parts', stop_at=stop, error=None, save_every=999
      )
    newest = checkpoints.find(tmp_path / 'parts')
    assert newest.name == str(stop + 1)
  got = run(compiled, tmp_path / 'parts')
  assert got[0]['w'] == want[0]['w'] and got[1] == want[1]


def test_a_signal_ends_an_evaluation_which_is_made_again(compiled, tmp_path):
  def evaluate(weights, card, name, stop=False):
    if stop:
      os.kill(os.getpid(), signal.SIGTERM)
    return {'frechet_distance': float(weights['w'])}

  settings = {'eval_every': 3, 'save_every': 999}
  want = run(compiled, tmp_path / 'whole', evaluate=evaluate, **settings)
  stopped = functools.partial(evaluate, stop=True)
  for at, calls in ((3, [stopped]), (3, [stopped]), (6, [evaluate, stopped])):
    with pytest.raises(KeyboardInterrupt, match=f'at update {at}'):
      run(
        compiled,
        tmp_path / 'parts',
        evaluate=lambda *args, calls=calls: calls.pop(0)(*args),
        **settings,
      )
  got = run(compiled, tmp_path / 'parts', evaluate=evaluate, **settings)
  assert got == want and got[1].count('frechet_distance') == 2


def test_data_that_vanish_cost_nothing_that_is_done(compiled, tmp_path):
  want = run(compiled, tmp_path / 'whole')
  error = FileNotFoundError(2, 'No such file or directory', 'cat.png')
  with pytest.raises(UserError, match=r'^data: .*cat\.png'):
    run(compiled, tmp_path / 'parts', stop_at=3, error=error, save_every=999)
  assert checkpoints.find(tmp_path / 'parts').name == '3'
  assert run(compiled, tmp_path / 'parts') == want


def test_a_training_can_be_made_longer_until_another_began_from_it(
  compiled, tmp_path
):
  want = run(compiled, tmp_path / 'whole', num_updates=9)
  run(compiled, tmp_path / 'parts')
  with pytest.raises(UserError, match='student_00004 began from the 7 updates'):
    run(
      compiled,
      tmp_path / 'parts',
      num_updates=9,
      followed_by='student_00004',
    )
  with pytest.raises(UserError, match='has had 7 updates, more than the 5'):
    run(compiled, tmp_path / 'parts', num_updates=5)
  got = run(compiled, tmp_path / 'parts', num_updates=9)
  assert got[0]['w'] == want[0]['w']
  # Where it ended before, a line of the log ends too.
  steps = [json.loads(line)['step'] for line in got[1].splitlines()]
  assert steps == [2, 4, 6, 7, 8, 9]


def test_what_cannot_be_saved_ends_the_training(
  compiled, tmp_path, monkeypatch
):
  def full(path, *args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  run(compiled, tmp_path / 'parts', num_updates=4)
  monkeypatch.setattr(step_folder.ocp.Checkpointer, 'save', full)
  with pytest.raises(UserError, match=r'7 cannot be written: .*No space') as e:
    run(compiled, tmp_path / 'parts', save_every=999)
  assert '\n' not in str(e.value)
  monkeypatch.undo()
  # What is there is good, and the run goes on.
  assert run(compiled, tmp_path / 'parts') == run(compiled, tmp_path / 'whole')


def test_the_log_of_a_full_disk_ends_the_training(
  compiled, tmp_path, monkeypatch
):
  write, lines = files.append_jsonl, []

  def full(path, entry):
    lines.append(entry)
    with files.writing(path):
      if len(lines) == 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(path, entry)

  monkeypatch.setattr(files, 'append_jsonl', full)
  with pytest.raises(UserError, match=r'metrics\.jsonl cannot be written'):
    run(compiled, tmp_path / 'parts')
  monkeypatch.undo()
  assert run(compiled, tmp_path / 'parts') == run(compiled, tmp_path / 'whole')


def test_a_snapshot_is_of_its_moment(compiled):
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
  assert run(compiled, tmp_path, stop_at=0)[0]['w'] == want[0]['w']


def test_a_loss_that_is_not_finite_stops_with_its_update(compiled, tmp_path):
  with pytest.raises(UserError, match=r'teacher: loss nan .* at update 6') as e:
    run(compiled, tmp_path, bad_at=5)
  # The last good one is there, and the log ends before.
  good = checkpoints.find(tmp_path)
  assert f'last good checkpoint is {good};' in str(e.value)
  assert (
    '"step": 4' in (tmp_path / 'metrics.jsonl').read_text().splitlines()[-1]
  )


def test_evaluations_come_at_their_interval_and_are_logged(compiled, tmp_path):
  seen = []

  def evaluate(weights, card, name):
    seen.append(name)
    return {'frechet_distance': float(weights['w'])}

  _, log = run(
    compiled,
    tmp_path,
    begin=lambda: begin(ema_decay=0.5),
    evaluate=evaluate,
    eval_every=3,
  )
  assert seen == ['teacher_0000003', 'teacher_0000006']
  # Of the average, which the toy step leaves at 1, not of the parameters.
  assert log.count('"frechet_distance": 1.0') == 2


def test_progress_tells_rate_and_time_left(capsys, monkeypatch):
  clock = iter([0.0, 10.0, 20.0])
  monkeypatch.setattr('time.monotonic', lambda: next(clock))
  progress = Progress('teacher', 100)
  progress.show(10)
  progress.show(30, 'loss 0.1')
  line = capsys.readouterr().err.splitlines()[-1]
  # 20 updates in 10 s after the first line, which has the compilation in it.
  assert line == 'teacher  30/100  loss 0.1  2 updates/s  0:00:35 left'


def test_duration():
  assert [duration(s) for s in (0.4, 61, 7325)] == [
    '0:00:00',
    '0:01:01',
    '2:02:05',
  ]


def test_a_damaged_image_ends_the_training_in_one_line(compiled, tmp_path):
  error = ValueError('cat.png cannot be read')
  with pytest.raises(UserError, match=r'^data: cat\.png cannot be read$'):
    run(compiled, tmp_path, stop_at=3, error=error)


def test_a_loss_that_is_never_finite_names_no_checkpoint(compiled, tmp_path):
  with pytest.raises(UserError, match='last good checkpoint is none'):
    run(compiled, tmp_path, bad_at=0)


def test_tensorboard_shows_what_the_log_has_after_a_kill(compiled, tmp_path):
  with pytest.raises(KilledError):
    run(compiled, tmp_path, stop_at=5)
  for _ in range(2):  # the second finds the training finished
    _, log = run(compiled, tmp_path)
    (events,) = (tmp_path / 'tensorboard' / 'teacher').iterdir()
    assert events.read_bytes().count(b'loss') == log.count('"loss"') == 4


def test_a_torn_line_of_the_log_is_dropped(compiled, tmp_path):
  want = run(compiled, tmp_path / 'whole')
  with pytest.raises(KilledError):
    run(compiled, tmp_path / 'torn', stop_at=5)
  with (tmp_path / 'torn' / 'metrics.jsonl').open('a') as file:
    file.write('{"stage": "teach')
  assert run(compiled, tmp_path / 'torn') == want


def test_updates_per_call_divide_all_updates(monkeypatch):
  train = tiny_config().train
  train.substeps = 10
  assert devices.updates_per_call(train, 600) == 1  # on CPU
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert devices.updates_per_call(train, 600) == 10
  assert devices.updates_per_call(train, 604) == 2


def test_weights_that_are_not_finite_are_not_saved(compiled, tmp_path):
  # The last update's loss is still fine.
  with pytest.raises(UserError, match='weights are not finite after update 7'):
    run(compiled, tmp_path, bad_at=6, bad=667)
  assert int(checkpoints.find(tmp_path).name) <= 6


def test_a_gradient_that_is_not_finite_stops_it_too(tmp_path):
  found = {
    'loss': np.ones(3, np.float32),
    'grad_norm': np.array([1, np.inf, 1], np.float32),
  }
  assert metrics.not_finite(found, 7) == (
    'loss 1.0 and gradient norm inf at update 6'
  )
  del found['grad_norm']
  assert metrics.not_finite({**found, 'grad_norm': found['loss']}, 7) is None
  assert metrics.not_finite({}, 7) is None


def test_what_an_evaluation_may_cost_is_saved_before(compiled, tmp_path):
  def killed(weights, card, name):
    raise KilledError

  with pytest.raises(KilledError):
    run(compiled, tmp_path, evaluate=killed, eval_every=3, save_every=999)
  assert checkpoints.find(tmp_path).name == '3'


def test_full_devices_are_told_in_one_line(compiled, tmp_path, monkeypatch):
  def full(state):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(devices, 'snapshot', full)
  with pytest.raises(UserError, match='too little memory; set model'):
    run(compiled, tmp_path)


def test_a_saver_tells_what_went_wrong_and_does_one_thing_at_a_time():
  def fail():
    raise UserError('full')

  done, go = [], threading.Event()
  with Saver() as saver:
    saver.start(lambda: (go.wait(10), done.append(1)))
    saver.check()  # which does not wait
    assert saver.busy and not done
    threading.Timer(0.2, go.set).start()
    saver.start(lambda: done.append(len(done)))
    saver.wait()
    assert done == [1, 1]
    saver.start(fail)
    while saver.busy:
      time.sleep(0.01)
    with pytest.raises(UserError, match='full'):
      saver.check()
    saver.start(fail)
    with pytest.raises(UserError, match='full'):
      saver.start(done.clear)
    assert done


def test_the_log_forgets_an_evaluation_at_the_step_it_goes_on_from(tmp_path):
  log = RunLog(tmp_path)
  log.rewind('teacher', 0)
  log.write('teacher', 2, {'loss': 1.0})
  log.write('teacher', 2, {'frechet_distance': 2.0})
  log.write('student', 4, {'loss': 3.0})
  log.rewind('teacher', 2)
  log.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {'stage': 'teacher', 'step': 2, 'loss': 1.0},
    {'stage': 'student', 'step': 4, 'loss': 3.0},
  ]
