"""Losses as functions of denoise functions, and the rounds of a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_distillation.core import process, schedules
from diffusion_distillation.objectives import LossInputs, make_objective
from diffusion_distillation.training.config import rounds, teacher_config
from tests.conftest import tiny_config

SCHEDULE = schedules.get_logsnr_schedule('cosine')
B = 512


class Recorder:
  """A denoise function that records its arguments."""

  def __init__(self, x_hat=0.0):
    self.x_hat, self.calls = x_hat, []

  def __call__(self, z, logsnr):
    self.calls.append((z, logsnr))
    return jnp.full_like(z, self.x_hat)


def inputs(num_steps=4, **given):
  keys = jax.random.split(jax.random.key(0), 2 * B).reshape(2, B)
  rest = {
    'student': Recorder(),
    'teacher': Recorder(),
    'target': None,
    'x': jnp.ones((B, 2, 2, 1)),
    'time_keys': keys[0],
    'noise_keys': keys[1],
    'num_steps': jnp.int32(num_steps),
    'progress': jnp.float32(0),
  }
  return LossInputs(**{**rest, **given})


def losses_of(made, given):
  """Returns the losses of an Objective, without its metrics."""
  found = made.loss(given)
  return found[0] if isinstance(found, tuple) else found


def objective(name, **model):
  config = tiny_config()
  if name == 'denoising':
    config = teacher_config(config)
  with config.unlocked():
    config.model.update(model)
  return make_objective(name, config)


def levels(recorder):
  return np.unique(np.round(recorder.calls[0][1], 3), return_counts=True)


@pytest.mark.parametrize('num_steps', [1, 4])
def test_students_are_trained_at_every_step_alike(num_steps):
  # The first step of sampling, t = 1, matters most.
  student = Recorder()
  objective('progressive').loss(inputs(num_steps, student=student))
  times = (jnp.arange(num_steps) + 1) / num_steps
  found, counts = levels(student)
  np.testing.assert_allclose(found[::-1], SCHEDULE(times), atol=1e-3)
  expected = B / num_steps
  assert np.abs(counts - expected).max() < 4 * np.sqrt(expected) + 1


def test_the_student_sees_the_teacher_s_noisy_images():
  student, teacher = Recorder(), Recorder()
  objective('progressive').loss(inputs(student=student, teacher=teacher))
  (z, logsnr), (z_t, logsnr_t), _ = *student.calls, *teacher.calls
  np.testing.assert_array_equal(z, z_t)
  np.testing.assert_array_equal(logsnr, logsnr_t)
  # Each is diffused to its own level, with its own noise.
  alpha, sigma = process.alpha_sigma(process.expand(logsnr, z))
  eps = (z - alpha) / sigma
  assert abs(float(eps.mean())) < 4 / np.sqrt(eps.size)
  assert abs(float(eps.std()) - 1) < 4 / np.sqrt(eps.size)
  assert len(np.unique(np.round(eps, 6))) > 0.99 * eps.size


@pytest.mark.parametrize(
  ('weighting', 'weight'),
  [
    ('constant', lambda snr: 1 + 0 * snr),
    ('snr', lambda snr: snr),
    ('truncated_snr', lambda snr: np.maximum(snr, 1)),
    ('v_mse', lambda snr: 1 + snr),
  ],
)
@pytest.mark.parametrize('name', ['denoising', 'progressive'])
def test_the_loss_is_the_weighted_squared_error(name, weighting, weight):
  # x = 1; the teacher predicts 0.25 and the student 0.5.
  student = Recorder(0.5)
  loss = losses_of(
    objective(name, mean_loss_weight_type=weighting),
    inputs(student=student, teacher=Recorder(0.25)),
  )
  target = {'denoising': 1.0, 'progressive': 0.25}[name]
  snr = np.exp(np.asarray(student.calls[0][1], np.float64))
  want = weight(snr) * (target - 0.5) ** 2
  np.testing.assert_allclose(loss, want, rtol=1e-4)


def test_the_teacher_s_prediction_is_not_clipped():
  loss = losses_of(
    objective('progressive', mean_loss_weight_type='constant'),
    inputs(teacher=Recorder(1000.0)),
  )
  np.testing.assert_allclose(loss, 1e6, rtol=1e-5)


@pytest.mark.parametrize('name', ['denoising', 'progressive'])
def test_the_schedule_of_training_is_used(name):
  student = Recorder()
  narrow = {'name': 'cosine', 'logsnr_min': -3.0, 'logsnr_max': 2.0}
  objective(name, train_logsnr_schedule=narrow).loss(inputs(student=student))
  seen = student.calls[0][1]
  # Times are continuous for the teacher, and 1/4 to 1 for students of 4 steps.
  at_most = {'denoising': 2.0, 'progressive': 0.9}[name]
  assert -3 <= seen.min() < -2.5 and at_most - 0.5 < seen.max() <= at_most


def test_noise_does_not_depend_on_times():
  logsnr = jnp.zeros(B)
  given = inputs()
  other_times = given._replace(time_keys=jax.random.split(jax.random.key(1), B))
  other_noise = given._replace(noise_keys=other_times.time_keys)
  z, same, other = (
    each.diffuse(logsnr) for each in (given, other_times, other_noise)
  )
  np.testing.assert_array_equal(z, same)
  assert (z != other).all()


@pytest.mark.parametrize('name', ['denoising', 'progressive'])
def test_images_are_diffused_with_the_noise_of_the_config(name):
  normal = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))
  seen = {}
  for kind in ('gaussian', 'gamma'):
    given = inputs(64, student=Recorder())
    objective(name, noise=kind, theta_0=0.1).loss(given)
    seen[kind], logsnr = given.student.calls[0]
  # The default is what it was before there was a choice, bit by bit.
  default = process.diffuse(given.x, logsnr, normal(given.noise_keys))
  np.testing.assert_array_equal(seen['gaussian'], default)
  # Shapes are below 1e4 from logsnr -4.6. Near 2 they are 14, the skewness 0.5.
  noisy = np.asarray(logsnr) < -5
  np.testing.assert_array_equal(seen['gamma'][noisy], default[noisy])
  assert (seen['gamma'][~noisy] != default[~noisy]).mean() > 0.9


def test_gamma_noise_gives_finite_gradients():
  def mean_loss(scale):
    given = inputs(student=lambda z, logsnr: scale * z)
    return objective('denoising', noise='gamma').loss(given).mean()

  loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(0.5)
  assert np.isfinite(loss) and np.isfinite(gradient) and gradient != 0


@pytest.mark.parametrize(
  ('name', 'sampler'), [('denoising', None), ('progressive', 'ddim')]
)
def test_what_is_known_about_an_objective(name, sampler):
  made, student, teacher = objective(name), Recorder(), Recorder()
  made.loss(inputs(student=student, teacher=teacher))
  assert len(student.calls) == 1
  assert len(teacher.calls) == made.extra_passes
  assert bool(teacher.calls) == made.needs_teacher
  assert made.sampler == sampler
  assert {each.objective for each in made.rounds} == {name}


def test_a_teacher_s_times_are_continuous_or_discrete():
  student = Recorder()
  objective('denoising').loss(inputs(student=student))
  assert len(levels(student)[0]) > B / 2
  # Times are uniform: half of them are below t = 1/2, which is logsnr 0.
  below = np.mean(student.calls[0][1] > 0)
  assert abs(below - 0.5) < 4 * 0.5 / np.sqrt(B)
  student = Recorder()
  objective('denoising', train_num_steps=2).loss(inputs(student=student))
  np.testing.assert_allclose(levels(student)[0], [-20, 0], atol=1e-2)


def ladder(**changes):
  config = tiny_config()
  config.distillation.update(changes)
  return config


def test_rounds_halve_the_steps_and_name_their_parents():
  found = rounds(ladder(start_num_steps=12, end_num_steps=3))
  assert [(r.name, r.num_steps, r.parent) for r in found[1:]] == [
    ('student_00006', 6, 'teacher'),
    ('student_00003', 3, 'student_00006'),
  ]
  assert (found[0].name, found[0].parent) == ('teacher', None)
  assert found[0].num_updates == 4


def test_rounds_may_have_their_own_lengths():
  lengths = {'2': 5, 1: 7}
  config = tiny_config()
  with config.unlocked():
    config.distillation.steps_per_iter = lengths
  assert [r.num_updates for r in rounds(config)] == [4, 5, 7]


def test_a_teacher_from_elsewhere_is_not_a_round():
  found = rounds(ladder(teacher_checkpoint_path='somewhere'))
  assert [r.name for r in found] == ['student_00002', 'student_00001']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'start_num_steps': 12}, 'power of two times'),
    ({'end_num_steps': 4}, 'power of two times'),
    ({'end_num_steps': 0}, 'end_num_steps must be 1 to'),
    ({'start_num_steps': 4, 'end_num_steps': 8}, 'power of two times'),
    ({'end_num_steps': -1}, 'end_num_steps must be 1 to'),
    ({'steps_per_iter': 0}, 'positive number of updates'),
    ({'steps_per_iter': 2.5}, 'positive number of updates'),
    ({'steps_per_iter': True}, 'positive number of updates'),
    ({'steps_per_iter': None}, 'positive number of updates'),
    ({'steps_per_iter': {'2': 5}}, 'round to 1 steps'),
    ({'objective': 'distil'}, 'unknown objective .*denoising, sliced'),
    ({'objective': 'progressive:factor=3'}, 'a power of 3 times'),
    ({'objective': 'progressive:factor=1'}, 'factor must be at least 2'),
    ({'objective': 'tract:rounds=2'}, 'no option .rounds.; known: factor'),
  ],
)
def test_invalid_rounds_are_refused(changes, message):
  config = tiny_config()
  with config.unlocked():
    config.distillation.update(changes)
  with pytest.raises(ValueError, match=message):
    rounds(config)
