"""TRACT, consistency models, one-shot distillation: losses and rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_distillation.core import process
from diffusion_distillation.core.noise import noise_of
from diffusion_distillation.objectives import make_objective
from diffusion_distillation.objectives.consistency_training import (
  original_schedule,
)
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import canonical
from diffusion_distillation.training import trainer
from diffusion_distillation.training.config import (
  check,
  methods,
  rounds,
  teacher_config,
  trainings,
)
from diffusion_distillation.training.plan import round_costs
from tests.conftest import tiny_config
from tests.objectives.test_objectives import (
  SCHEDULE,
  B,
  Recorder,
  inputs,
  losses_of,
)

C = 0.25  # standard deviation of Gaussian data


def teacher(z, logsnr):
  """The exact x_hat of data ~ N(0, C^2)."""
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  return alpha * C**2 * z / ((alpha * C) ** 2 + sigma**2)


def flow_end(z, logsnr):
  """The exact consistency model of these data."""
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  return C * z / jnp.sqrt((alpha * C) ** 2 + sigma**2)


def made(objective, **changes):
  config = tiny_config()
  with config.unlocked():
    config.distillation.objective = objective
    config.distillation.update(changes)
    config.model.mean_loss_weight_type = 'constant'
  return make_objective(objective, config)


def given(**more):
  x = C * jax.random.normal(jax.random.key(1), (B, 2, 2, 1))
  return inputs(**{'num_steps': 1, 'x': x, 'teacher': teacher, **more})


@pytest.mark.parametrize('step', ['ddim', 'heun', 'addim'])
@pytest.mark.parametrize('grid', ['uniform', 'karras'])
def test_the_exact_consistency_model_has_nearly_no_loss(step, grid):
  loss = {}
  for levels in (64, 512):
    objective = made(
      f'consistency_distillation:levels={levels},grid={grid},step={step},'
      'distance=mse'
    )
    exact = given(student=flow_end, target=flow_end)
    loss[levels] = float(losses_of(objective, exact).mean())
  # A mean prediction, and one that is off by a tenth, are far worse.
  for wrong in (teacher, lambda z, logsnr: 0.9 * flow_end(z, logsnr)):
    other = given(student=wrong, target=flow_end)
    assert losses_of(objective, other).mean() > 30 * loss[512]
  assert loss[512] < loss[64] / 8


def test_tract_s_target_is_the_end_of_the_group():
  # The exact student of 1 step from a teacher of many is the flow's end.
  objective = made('tract:factor=512', start_num_steps=512, end_num_steps=1)
  exact = given(student=flow_end, target=flow_end)
  wrong = given(student=teacher, target=flow_end)
  good, bad = (losses_of(objective, each).mean() for each in (exact, wrong))
  assert good < 2e-3 * bad


@pytest.mark.parametrize(
  ('objective', 'head', 'sampler'),
  [
    ('consistency_distillation', 'v', 'consistency'),
    (
      'consistency_distillation:grid=karras',
      'edm_consistency',
      'consistency:sigma_min=0.002@karras:include_min=False',
    ),
    ('easy_consistency_tuning', 'v', 'consistency@karras:include_min=False'),
    ('consistency_distillation:segments=4', 'v', 'ddim'),
  ],
)
def test_a_student_is_sampled_at_levels_of_its_training(
  objective, head, sampler
):
  config = tiny_config()
  with config.unlocked():
    config.model.mean_type = head
  found = {r.sampler for r in make_objective(objective, config).rounds}
  assert found == {sampler}
  assert canonical(sampler) == sampler


def test_a_consistency_model_from_data_is_made_for_few_steps():
  config = teacher_config(tiny_config())
  (alone,) = make_objective('consistency_training', config).rounds
  assert (alone.parent, alone.num_steps, alone.more_steps) == (
    None,
    1,
    (2, 4, 8),
  )
  # It has no steps that a student could be trained to make at once.
  config = tiny_config()
  with config.unlocked():
    config.teacher.objective = 'consistency_training'
  with pytest.raises(UserError, match='has no steps to distill'):
    check(config)


def test_the_weighting_of_improved_training_and_of_tuning_is_their_own():
  for name in ('improved_consistency_training', 'easy_consistency_tuning'):
    config = tiny_config()
    found = []
    for weighting in ('constant', 'snr'):
      with config.unlocked():
        config.model.mean_loss_weight_type = weighting
      made = make_objective(name, config)
      found.append(losses_of(made, given(student=teacher, target=flow_end)))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize('segments', [1, 2, 4])
def test_segments_end_at_their_multiples(segments):
  student = Recorder()
  seen = inputs(num_steps=segments, student=student, target=Recorder())
  objective = made(f'consistency_distillation:levels=8,segments={segments}')
  losses_of(objective, seen)
  found = np.unique(np.round(student.calls[0][1], 3))
  times = (np.arange(8) + 1) / 8
  np.testing.assert_allclose(found[::-1], SCHEDULE(times), atol=1e-3)


@pytest.mark.parametrize('segments', [1, 2, 4])
def test_targets_go_on_to_the_end_of_the_segment(segments):
  student = Recorder(0.0)
  seen = given(
    student=student,
    teacher=Recorder(0.0),
    target=Recorder(1.0),
    num_steps=segments,
  )
  objective = made(
    f'consistency_distillation:levels=8,segments={segments},distance=mse'
  )
  loss = losses_of(objective, seen)
  logsnr_t = np.asarray(student.calls[0][1])
  # Of times k / 8, by their noise levels.
  logsnr = np.array(SCHEDULE(np.arange(9) / 8), np.float64)
  k = np.abs(logsnr[1:] - logsnr_t[:, None]).argmin(1) + 1
  end = (k - 1) * segments // 8 * (8 // segments)
  logsnr[0] = np.inf
  # Both steps of DDIM, from z_t with x = 0 and then with x = 1.
  alpha = np.sqrt(1 / (1 + np.exp(-logsnr)))
  sigma = np.sqrt(1 / (1 + np.exp(logsnr)))
  with np.errstate(invalid='ignore'):  # 0 / 0 where the first step goes to data
    share = sigma[end] / sigma[k - 1]
  z_end = sigma[end] / sigma[k] + (alpha[end] - share * alpha[k - 1])
  z_end = np.where(end == k - 1, sigma[end] / sigma[k], z_end)
  share = sigma[end] / sigma[k]
  want = (z_end - share) / (alpha[end] - share * alpha[k])
  np.testing.assert_allclose(loss, want**2, atol=1e-4)


@pytest.mark.parametrize(
  'objective', ['improved_consistency_training', 'easy_consistency_tuning']
)
def test_their_weight_is_the_inverse_of_the_step(objective):
  student, target = Recorder(0.0), Recorder(1.0)
  seen = given(student=student, target=target, progress=jnp.float32(0.3))
  loss = losses_of(made(f'{objective}:distance=mse'), seen)
  sigma_t, sigma_m = (
    np.exp(-np.asarray(each.calls[0][1], float) / 2)
    for each in (student, target)
  )
  np.testing.assert_allclose(loss, 1 / (sigma_t - sigma_m), rtol=2e-3)
  if objective == 'easy_consistency_tuning':  # stage 2 of 8 at 0.3
    ratio = 1 - (1 + 8 / (1 + np.exp(sigma_t))) / 2**3
    np.testing.assert_allclose(
      sigma_m / sigma_t, np.maximum(ratio, 0), atol=1e-4
    )
  else:  # a few of the levels are the most likely ones, unlike Karras's
    assert np.mean((sigma_t > 0.03) & (sigma_t < 3)) > 0.6


def test_the_weighting_of_the_config_is_that_of_the_noisy_image():
  config = tiny_config()
  with config.unlocked():
    config.model.mean_loss_weight_type = 'v_mse'
  objective = make_objective(
    'consistency_distillation:levels=8,distance=mse', config
  )
  student = Recorder(0.0)
  one = Recorder(1.0)
  seen = given(student=student, target=one, teacher=one)
  loss = losses_of(objective, seen)
  np.testing.assert_allclose(
    loss, 1 + np.exp(np.asarray(student.calls[0][1])), rtol=1e-5
  )


def test_targets_have_an_average_where_it_is_asked_for():
  decay = made('consistency_training').target_decay
  want = original_schedule(2, 150, 0.9)[1]
  assert decay(jnp.float32(0.5)) == want(jnp.float32(0.5))
  for name in ('consistency_distillation:target_decay=0.5', 'tract:factor=4'):
    assert made(name).target_decay(jnp.float32(0.5)) == 0.5
  for name in ('consistency_distillation', 'improved_consistency_training'):
    assert made(name).target_decay is None


def test_the_predictions_of_tract_are_clipped():
  given_ = inputs(
    num_steps=1,
    student=Recorder(1.0),
    teacher=Recorder(2.0),
    target=Recorder(5.0),
  )
  objective = made('tract:factor=4', start_num_steps=4, end_num_steps=1)
  np.testing.assert_allclose(losses_of(objective, given_), 0, atol=1e-9)


def test_score_matching_weighs_noise_levels_by_their_variance():
  """On Gaussian data, against the closed form of the implicit loss."""
  calls = []

  def student(z, logsnr):
    calls.append((z, logsnr))
    return teacher(z, logsnr)

  config = teacher_config(tiny_config())
  objective = make_objective('implicit_score_matching', config)
  loss = losses_of(objective, given(student=student, teacher=None))
  z, logsnr = calls[-1]
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  y, noise = z / alpha, (sigma / alpha) ** 2
  variance = C**2 + noise
  terms = noise * (y**2 / (2 * variance**2) - 1 / variance)
  low = np.asarray(logsnr) < 5  # beyond, the score loses digits
  np.testing.assert_allclose(
    loss[low], jnp.sum(terms, axis=(1, 2, 3))[low], rtol=2e-3, atol=2e-3
  )
  assert np.ptp(logsnr) > 20


def test_levels_rise_during_half_of_the_training():
  def number(progress):
    student = Recorder()
    seen = inputs(
      num_steps=1,
      student=student,
      target=Recorder(),
      progress=jnp.float32(progress),
    )
    losses_of(made('consistency_distillation:levels=32,first_levels=8'), seen)
    return len(np.unique(np.round(student.calls[0][1], 3)))

  assert [number(p) for p in (0, 0.25, 0.5, 0.9)] == [8, 16, 32, 32]


def test_consistency_training_needs_no_teacher():
  # The small step goes to the same image with less of the same noise.
  for name in (
    'consistency_training',
    'improved_consistency_training',
    'easy_consistency_tuning',
  ):
    objective = made(name)
    assert not objective.needs_teacher
    student, target = Recorder(), Recorder()
    seen = given(teacher=None, student=student, target=target)
    losses_of(objective, seen)
    (z_t, logsnr_t), (z_m, logsnr_m) = student.calls[0], target.calls[0]
    eps = []
    for z, logsnr in ((z_t, logsnr_t), (z_m, logsnr_m)):
      alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
      eps.append((z - alpha * seen.x) / sigma)
    noisy = np.asarray(logsnr_m) < 5
    np.testing.assert_allclose(eps[0][noisy], eps[1][noisy], atol=2e-2)
    assert (logsnr_m > logsnr_t).all()
    # In a config without students it trains a network from scratch.
    alone = make_objective(name, teacher_config(tiny_config()))
    assert alone.rounds[0].parent is None


def test_one_shot_starts_from_the_noise_of_the_seeds():
  student = Recorder()
  noise, _ = noise_of(jnp.arange(B, dtype=jnp.uint32), (2, 2, 1))
  loss = losses_of(
    made('one_shot:pairs=5,distance=l1'),
    inputs(num_steps=1, student=student, noise=noise),
  )
  z, logsnr = student.calls[0]
  np.testing.assert_array_equal(z, noise)
  np.testing.assert_allclose(logsnr, SCHEDULE(jnp.ones(B)))
  np.testing.assert_allclose(loss, 1)  # x is 1 and the prediction 0


def test_the_pairs_count_as_cost():
  config = tiny_config()
  config.distillation.objective = 'one_shot:pairs=100'
  _, denoiser = check(config)
  costs = round_costs(config, denoiser)[-1]
  more = costs.flops - costs.num_updates * costs.flops_per_update
  one = costs.flops_per_update / 3 / config.train.batch_size
  np.testing.assert_allclose(more, 100 * 4 * one)


@pytest.mark.parametrize(
  ('objective', 'message'),
  [
    ('tract:factor=1', 'factor of at least 2'),
    ('tract:target_decay=1', r'target_decay in \[0, 1\)'),
    ('consistency_distillation:step=rk4', "unknown step 'rk4'; known: ddim"),
    ('consistency_distillation:grid=cosine', "unknown grid 'cosine'"),
    ('consistency_distillation:distance=lpips', "unknown distance 'lpips'"),
    ('consistency_distillation:levels=1', 'at least 2 levels'),
    ('consistency_distillation:levels=8,first_levels=9', 'first_levels <='),
    ('consistency_distillation:segments=8,levels=4', 'segments <= first'),
    ('consistency_distillation:segments=2,grid=karras', 'one segment'),
    ('consistency_distillation:segments=3', 'a power of two times'),
    ('consistency_distillation:target_decay=1', r'must be in \[0, 1\)'),
    ('consistency_training:first_levels=0', '1 <= first_levels'),
    ('consistency_training:target_decay=-1', r'must be in \[0, 1\)'),
    ('improved_consistency_training:levels=5', '1 <= first_levels'),
    ('easy_consistency_tuning:stages=0', 'from 1 to 16'),
    ('consistency_distillation:levels=2097152', 'at most 1048576'),
    (
      'consistency_distillation:grid=karras,first_levels=1',
      'first_levels of at least 2',
    ),
    ('one_shot:pairs=0', 'pairs must be at least 1'),
    ('one_shot:distance=lpips', "unknown distance 'lpips'"),
    ('sliced_score_matching', 'is an objective of teachers'),
  ],
)
def test_bad_options_are_refused(objective, message):
  config = tiny_config()
  with config.unlocked():
    config.distillation.objective = objective
  with pytest.raises(UserError, match=message):
    check(config)


def test_a_head_without_boundary_condition_is_refused():
  config = tiny_config()
  with config.unlocked():
    config.model.mean_type = 'x'
    config.distillation.objective = 'consistency_distillation'
  with pytest.raises(UserError, match=r"cannot have model\.mean_type='x'"):
    check(config)


def several(**of_methods):
  config = tiny_config()
  with config.unlocked():
    config.distillation.methods = ConfigDict(of_methods)
  return config


def test_several_methods_distill_one_teacher():
  config = several(
    by_halves={},
    at_once={
      'distillation': {'objective': 'tract:factor=4', 'steps_per_iter': 7},
      'train': {'ema_decay': 0.5},
      'model': {'mean_loss_weight_type': 'v_mse'},
    },
  )
  found = rounds(config)
  assert [(r.name, r.parent, r.num_updates) for r in found] == [
    ('teacher', None, 4),
    ('at_once_00001', 'teacher', 7),
    ('by_halves_00002', 'teacher', 3),
    ('by_halves_00001', 'by_halves_00002', 3),
  ]
  assert found[1].objective == 'tract:factor=4'
  _, first, second = trainings(config)
  assert (first.config.train.ema_decay, second.config.train.ema_decay) == (
    0.5,
    0.0,
  )
  assert first.config.model.mean_loss_weight_type == 'v_mse'
  # The randomness of a method does not depend on the others.
  (_, alone) = trainings(several(by_halves={}))
  numbers = [
    [trainer._numbers(each, t) for each in t.objective.rounds]
    for t in (alone, second, first)
  ]
  assert numbers[0] == numbers[1]
  assert not set(numbers[1]) & set(numbers[2])
  assert methods(tiny_config()).keys() == {'student'}


@pytest.mark.parametrize(
  ('name', 'keys', 'message'),
  [
    ('Big', {}, 'methods.Big: a method has a name of small letters'),
    ('teacher', {}, "which is neither 'teacher' nor 'student'"),
    ('student', {}, "which is neither 'teacher' nor 'student'"),
    ('a', {'distillation': {'end_num_steps': 'x'}}, 'methods.a: dist.*integer'),
    ('a', {'distillation': {'objective': 'foo'}}, 'methods.a: unknown obj'),
    ('a', {'train': {'ema': 1}}, 'methods.a.train.ema is no key'),
    ('a', {'model': {'mean_type': 'x'}}, 'known: mean_loss_weight_type'),
    ('a', {'eval': {'num_samples': 1}}, 'methods.a.eval is no section'),
    ('a', {'train': {'num_updates': 1}}, 'train.num_updates is no key'),
    ('a', 5, 'methods.a must be a dict of keys, got 5'),
    ('a', {'train': 5}, 'methods.a.train must be a dict of keys, got 5'),
    (
      'a',
      {'distillation': {'start_num_steps': 8}},
      'known: objective, end_num_steps, steps_per_iter',
    ),
  ],
)
def test_what_a_method_cannot_change(name, keys, message):
  with pytest.raises(ValueError, match=message):
    rounds(several(**{name: keys}))
