import dataclasses
import math

import pytest

from diffusion_distillation.training.config import check, rounds
from diffusion_distillation.training.plan import (
  forward_flops,
  num_parameters,
  plan,
  round_costs,
)


@pytest.fixture
def denoiser(config):
  return check(config)[1]


def test_the_parameters_and_flops_of_a_perceptron_are_counted(config, denoiser):
  # 64 pixels, 32 features of the noise level and 10 classes; a hidden layer of
  # 16; 64 pixels.
  assert num_parameters(denoiser) == (106 + 1) * 16 + (16 + 1) * 64
  products = 2 * (106 * 16 + 16 * 64)
  flops = forward_flops(denoiser)
  assert products < flops < 1.5 * products
  # Other types are counted alike.
  network = denoiser.network.clone(dtype='bfloat16')
  assert forward_flops(dataclasses.replace(denoiser, network=network)) == flops


def test_the_costs_of_the_rounds_are_counted(config, denoiser):
  config.train.batch_size = 8  # batch size of the students
  costs = round_costs(config, denoiser)
  forward, params = forward_flops(denoiser), num_parameters(denoiser)
  for cost, each in zip(costs, rounds(config), strict=True):
    is_teacher = each.parent is None
    batch_size = 16 if is_teacher else 8
    # Forward and backward pass of the student, two passes of its teacher.
    passes = 3 if is_teacher else 5
    assert (cost.name, cost.num_updates) == (each.name, each.num_updates)
    assert cost.num_images == batch_size * cost.num_updates
    assert math.isclose(cost.flops_per_update, passes * forward * batch_size)
    assert cost.flops == cost.num_updates * cost.flops_per_update
    # Parameters, two moments of Adam, and the teacher's EMA, in float32; three
    # counters.
    copies = 4 if is_teacher else 3
    assert cost.checkpoint_bytes == 4 * (copies * params + 3)


def test_the_table_has_each_round_and_the_total(config, denoiser):
  text = plan(config, denoiser)
  assert f'{num_parameters(denoiser):,} parameters' in text
  assert 'digits: 8x8x1 images' in text
  rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[3:]}
  assert list(rows) == ['teacher', 'student_00002', 'student_00001', 'total']
  assert rows['teacher'][:2] == ['4', '64']
  assert rows['student_00001'][:2] == ['3', '48']
  assert rows['total'][:2] == ['10', '160']


def test_repeated_runs_are_planned(config):
  with config.unlocked():
    config.eval.seeds = 3
  *_, total, of_seeds = plan(config, check(config)[1]).splitlines()
  assert of_seeds.startswith('of 3 seeds')
  numbers = [
    [int(text.replace(',', '')) for text in line.split()[-3:-1]]
    for line in (total, of_seeds)
  ]
  assert numbers[1] == [3 * number for number in numbers[0]]


def test_a_network_of_any_size_is_planned(config):
  # The parameters would take 69 GB: nothing is computed.
  config.model.args.update(width=65536, depth=5)
  _, denoiser = check(config)
  assert num_parameters(denoiser) == 107 * 65536 + 65537 * (4 * 65536 + 64)
  assert '(17191.3M)' in plan(config, denoiser)
