"""Algorithm 2 itself, with steps that only say what they were given."""

import dataclasses

import jax
import numpy as np
import pytest

from diffusion_distillation.checkpoints import checkpoint as checkpoints
from diffusion_distillation.checkpoints import compatibility, weight_files
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.log import RunLog
from diffusion_distillation.training import trainer
from diffusion_distillation.training.config import check


class Recorder:
  """Stands in for `replicas.compile_step`; an update adds 1 to the weights."""

  def __init__(self):
    self.calls = []

  def compile_step(self, step, in_axes):
    del in_axes

    def updates(state, *args):
      self.calls.append((step.__name__, state, args))
      ones = np.ones((jax.device_count(), 1), np.float32)
      metrics = {'loss': ones, 'grad_norm': ones, 'learning_rate': ones}
      params = jax.tree.map(lambda p: p + 1, state.params)
      average = state.ema_params
      if average is not None:
        average = jax.tree.map(lambda p: p + 100, params)
      return state.replace(
        step=state.step + 1, params=params, ema_params=average
      ), metrics

    return updates


def train(config, workdir, monkeypatch, teacher=None):
  recorder = Recorder()
  monkeypatch.setattr(trainer.devices, 'compile_step', recorder.compile_step)
  dataset, _ = check(config)
  workdir.mkdir(exist_ok=True)
  log = RunLog(workdir)
  everything = trainer.Trainer(config, dataset, workdir, teacher, log, None)
  everything.run()
  log.close()
  return recorder.calls


def leaf(weights):
  return np.asarray(jax.tree.leaves(weights)[0]).reshape(-1)[0]


def test_each_round_distills_the_one_before(config, tmp_path, monkeypatch):
  config.distillation.update(
    start_num_steps=8, steps_per_iter={4: 2, 2: 3, 1: 1}
  )
  calls = train(config, tmp_path / 'run', monkeypatch)
  names = [name for name, _, _ in calls]
  assert names == ['train_step'] * 4 + ['distill_step'] * 6

  # The teacher's average is what is distilled, then each student's weights.
  rounds = [calls[4:6], calls[6:9], calls[9:10]]
  before = leaf(checkpoints.load(tmp_path / 'run' / 'teacher').weights)
  last_teacher_state = calls[3][1]
  np.testing.assert_allclose(before, leaf(last_teacher_state.params) + 101)
  for updates, num_steps in zip(rounds, (4, 2, 1), strict=True):
    for i, (_, state, (teacher, steps, _, _)) in enumerate(updates):
      np.testing.assert_allclose(leaf(teacher), before)
      np.testing.assert_allclose(leaf(state.params), before + i)
      assert int(steps) == num_steps
      assert int(np.asarray(state.num_updates).reshape(-1)[0]) == len(updates)
    before += len(updates)
    saved = checkpoints.load(tmp_path / 'run' / f'student_{num_steps:05}')
    np.testing.assert_allclose(leaf(saved.weights), before)


def test_no_two_trainings_share_their_noise_or_their_order(
  config, tmp_path, monkeypatch
):
  calls = train(config, tmp_path / 'run', monkeypatch)
  firsts = [calls[0], calls[4], calls[7]]  # of the teacher and two rounds
  keys = {tuple(jax.random.key_data(c[2][-1]).tolist()) for c in firsts}
  images = {np.asarray(c[2][-2]['image']).tobytes() for c in firsts}
  assert len(keys) == len(images) == 3
  # Within a training the key stays, and the step makes the noise new.
  assert jax.random.key_data(calls[0][2][-1]).tolist() == (
    jax.random.key_data(calls[1][2][-1]).tolist()
  )


@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_dropout_is_that_of_whoever_is_trained(
  config, tmp_path, monkeypatch, who
):
  section = config.teacher.model if who == 'teacher' else config.model
  section.args.dropout = 0.4
  seen = []
  for name in ('make_train_step', 'make_distill_step'):
    original = getattr(trainer, name)

    def spy(denoiser, optimizer, config, original=original):
      seen.append((denoiser.network.dropout, config.model.args.dropout))
      return original(denoiser, optimizer, config)

    monkeypatch.setattr(trainer, name, spy)
  train(config, tmp_path / 'run', monkeypatch)
  rates = (0.4, 0.0) if who == 'teacher' else (0.0, 0.4)
  assert seen == [(rate, rate) for rate in rates]


def test_the_optimizer_is_that_of_whoever_is_trained(
  config, tmp_path, monkeypatch
):
  seen, original = [], trainer.make_optimizer

  def spy(section):
    seen.append((section.learning_rate, section.ema_decay))
    return original(section)

  monkeypatch.setattr(trainer, 'make_optimizer', spy)
  train(config, tmp_path / 'run', monkeypatch)
  assert seen == [(1e-3, 0.999), (config.train.learning_rate, 0.0)]


def test_a_teacher_of_an_unknown_schedule_is_refused(
  config, tmp_path, monkeypatch
):
  config.distillation.steps_per_iter = 1
  train(config, tmp_path / 'run', monkeypatch)
  _, denoiser = check(config)
  teacher = checkpoints.load(tmp_path / 'run' / 'teacher')
  path = tmp_path / 'odd.safetensors'
  for said in (None, {}, {'model': {}}):
    odd = dataclasses.replace(teacher, card={**teacher.card, 'config': said})
    weight_files.write(odd, path)
    with pytest.raises(UserError, match='train_logsnr_schedule None'):
      compatibility.find_teacher(path, config, denoiser)


def test_a_teacher_of_another_kind_is_refused(config, tmp_path, monkeypatch):
  config.distillation.steps_per_iter = 1
  train(config, tmp_path / 'run', monkeypatch)
  path = tmp_path / 'run' / 'teacher'
  _, denoiser = check(config)
  found = compatibility.find_teacher(path, config, denoiser)
  assert found == str(path / 'checkpoints' / '4')
  assert compatibility.find_teacher(None, config, denoiser) is None
  # Sampled in another way it is the same teacher.
  config.model.eval_logsnr_schedule.logsnr_max = 10.0
  assert compatibility.find_teacher(path, config, denoiser) == found
  # So it is in another precision, or with less memory: be it that the card is
  # older than the key.
  config.model.args.update(dtype='bfloat16', remat=True, dropout=0.5)
  assert compatibility.find_teacher(path, config, denoiser) == found
  teacher = checkpoints.load(path)
  args = {k: v for k, v in teacher.card['args'].items() if k != 'remat'}
  old = dataclasses.replace(teacher, card={**teacher.card, 'args': args})
  weight_files.write(old, tmp_path / 'old.safetensors')
  found = compatibility.find_teacher(
    tmp_path / 'old.safetensors', config, denoiser
  )
  assert found == str(tmp_path / 'old.safetensors')
  for section, key, value in (
    (config.model, 'mean_type', 'x'),
    (config.model.args, 'logsnr_input_type', 'linear'),
    (config.model.train_logsnr_schedule, 'name', 'uniform'),
  ):
    before, section[key] = section[key], value
    _, denoiser = check(config)
    with pytest.raises(UserError, match='they must agree'):
      compatibility.find_teacher(path, config, denoiser)
    section[key] = before


def test_a_round_that_the_config_leaves_out_has_begun_all_the_same(
  config, tmp_path, monkeypatch
):
  config.distillation.steps_per_iter = {2: 1, 1: 1}
  train(config, tmp_path / 'run', monkeypatch)
  config.distillation.update(end_num_steps=2)
  config.distillation.steps_per_iter = {2: 2}
  with pytest.raises(UserError, match='student_00001 began from the 1 updates'):
    train(config, tmp_path / 'run', monkeypatch)
