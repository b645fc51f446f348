import jax
import numpy as np
import pytest

from diffusion_distillation.checkpoints.card import make_card
from diffusion_distillation.core import noise as noise_module
from diffusion_distillation.core.schedules import fraction
from diffusion_distillation.data import digits
from diffusion_distillation.generation.generator import (
  Generator,
  condition_of,
  to_uint8,
)
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.samplers import GRIDS
from diffusion_distillation.training import trainer
from tests.conftest import tiny_config


@pytest.fixture(scope='module')
def card():
  return make_card(
    tiny_config(),
    digits.load(class_conditional=True),
    num_steps=3,
    sampler='ddim',
    objective='progressive',
  )


def draw(card, params, seeds, batch_size=16, **options):
  options = {'num_steps': 3, 'sampler': 'ddim', **options}
  return Generator(card, batch_size).images(params, seeds, **options)


@pytest.mark.parametrize('sampler', ['ddim', 'ancestral', 'stochastic'])
def test_an_image_depends_on_its_seed_alone(card, params, sampler):
  seeds = np.arange(13)
  whole = draw(card, params, seeds, sampler=sampler)
  assert whole.shape == (13, 8, 8, 1) and whole.dtype == np.uint8
  assert len({image.tobytes() for image in whole}) == 13
  # Other batches, another order, other devices for the same seed.
  parts = draw(card, params, seeds[::-1], 4, sampler=sampler)[::-1]
  difference = whole.astype(int) - parts.astype(int)
  assert np.abs(difference).max() <= 1  # of rounding float32 to uint8
  assert np.mean(difference != 0) < 0.01


def test_images_that_are_not_finite_are_refused(card, params):
  broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
  with pytest.raises(UserError, match='in 3 steps draws images that are not'):
    draw(card, broken, np.arange(13))


def test_one_compilation_serves_every_step_count_and_class(card, params):
  generator = Generator(card, 4)
  generator.images(params, np.arange(8), num_steps=1, sampler='ddim')
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **labels: compiled.append(event)
  )
  for label in (None, 3):
    generator.images(
      params, np.arange(8), num_steps=5, sampler='ddim', label=label
    )
  assert not [event for event in compiled if 'backend_compile' in event]


UNIFORM = {'name': 'uniform', 'logsnr_min': -20.0, 'logsnr_max': 20.0}


@pytest.mark.parametrize(
  'changes',
  [
    {'clip': False},
    {'model': {'mean_type': 'x'}},
    {'logsnr_schedule': UNIFORM},
  ],
)
def test_the_card_is_obeyed(card, params, changes):
  # The parameters are tripled, so that predictions leave [-1, 1].
  loud = jax.tree.map(lambda p: 3 * p, params)
  if 'model' in changes:
    changes = {'model': {**card.model, **changes['model']}}
  as_is, other = (
    draw(c, loud, np.arange(4), 4) for c in (card, card.replace(**changes))
  )
  assert np.mean(as_is != other) > 0.1


def test_options_of_a_sampler_are_obeyed(card, params):
  large, same, small = (
    draw(card, params, np.arange(4), 4, sampler=spelling)
    for spelling in ('ancestral', 'ancestral:gamma=1', 'ancestral:gamma=0')
  )
  np.testing.assert_array_equal(large, same)
  assert np.mean(large != small) > 0.1


def test_the_time_grid_of_a_sampler_is_obeyed(card, params, monkeypatch):
  monkeypatch.setitem(
    GRIDS, 'square', lambda: lambda schedule: lambda i, n: fraction(i, n) ** 2
  )
  uniform, square = (
    draw(card, params, np.arange(4), 4, sampler=spelling)
    for spelling in ('ddim', 'ddim@square')
  )
  assert np.mean(uniform != square) > 0.1


def test_seeds_have_the_classes_in_turn():
  seeds = np.array([0, 1, 9, 10, 23, 2**32 - 1])
  labels = condition_of(seeds, 10)['label']
  np.testing.assert_array_equal(labels, [0, 1, 9, 0, 3, 5])
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(condition_of(seeds, 1)['label'], 0)
  np.testing.assert_array_equal(condition_of(seeds, 10, 7)['label'], 7)
  labels = condition_of(seeds, 10, [4, 2])['label']
  np.testing.assert_array_equal(labels, [4, 2, 2, 4, 2, 2])


def test_an_image_shows_the_class_that_is_asked_for(card, params):
  # The class matters: all images change except those that had it in turn.
  seeds = np.arange(10)
  in_turn, sevens = (
    draw(card, params, seeds, label=label) for label in (None, 7)
  )
  same = [np.array_equal(a, b) for a, b in zip(in_turn, sevens, strict=True)]
  assert [seed for seed in seeds if same[seed]] == [7]


def test_the_keys_of_images_are_no_training_s_keys():
  key = jax.random.key(noise_module._DOMAIN)
  images = {
    tuple(jax.random.key_data(jax.random.fold_in(key, seed)).tolist())
    for seed in range(64)
  }
  # The second number is that of a round of the same step count as another, the
  # third stands for the name of a method.
  numbers = ((0,), (1,), (2,), (4,), (4, 1), (4, 0, 2))
  trainings = {
    tuple(jax.random.key_data(trainer._round_key(seed, each)).tolist())
    for seed in range(4)
    for each in numbers
  }
  assert len(images) == 64 and len(trainings) == 24
  assert not images & trainings


def test_to_uint8_rounds_and_saturates():
  x = np.array([-1.5, -1, -1 + 0.6 / 127.5, 0, 1, 7], np.float32)
  np.testing.assert_array_equal(to_uint8(x), [0, 0, 1, 128, 255, 255])
