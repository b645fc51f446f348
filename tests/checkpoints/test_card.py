import dataclasses
import json

import pytest

from configs import digits_base
from diffusion_distillation.checkpoints.card import Card, make_card
from diffusion_distillation.data.dataset import load_dataset
from diffusion_distillation.runtime.errors import UserError
from tests.checkpoints.toy import CARD


def test_a_card_survives_json():
  values = json.loads(json.dumps(CARD.to_json()))
  assert Card.from_json(values, 'here') == CARD


def test_the_card_of_a_config_survives_json_and_builds_its_network():
  config = digits_base.get_config()
  dataset = load_dataset(config.dataset.name, config.dataset.args)
  card = make_card(
    config,
    dataset,
    num_steps=8,
    sampler='ancestral:gamma=1.0',
    objective='denoising',
  )
  assert Card.from_json(json.loads(json.dumps(card.to_json())), 'here') == card
  assert card.sampler == 'ancestral'  # the spelling without defaults
  assert card.denoiser().image_shape == dataset.image_shape == card.image_shape
  assert card.denoiser().network.ch == config.model.args.ch
  assert card.parent is None and card.updates is None
  assert card.is_finished


@pytest.mark.parametrize(
  ('updates', 'num_updates', 'finished'),
  [(3, 9, False), (9, 9, True), (None, None, True), (None, 9, True)],
)
def test_weights_are_finished_after_all_updates(updates, num_updates, finished):
  card = CARD.replace(updates=updates, num_updates=num_updates)
  assert card.is_finished == finished


def test_optional_values_of_a_card_may_be_none():
  unknown = dict.fromkeys(
    ('parent', 'parent_checksum', 'updates', 'num_updates', 'config')
  )
  card = CARD.replace(**unknown)
  assert Card.from_json(card.to_json(), 'here') == card


@pytest.mark.parametrize(
  'name', [field.name for field in dataclasses.fields(Card)]
)
def test_a_missing_key_of_a_card_is_named(name):
  values = {k: v for k, v in CARD.to_json().items() if k != name}
  with pytest.raises(UserError, match=f'the card of here has no {name}:'):
    Card.from_json(values, 'here')


@pytest.mark.parametrize('values', [None, 3, [], 'card', {}])
def test_other_json_is_refused(values):
  with pytest.raises(UserError, match='the card of here has no num_steps'):
    Card.from_json(values, 'here')


def model(name='mlp', mean_type='v', **args):
  return {'name': name, 'mean_type': mean_type, 'args': args}


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('num_steps', 0),
    ('num_steps', 2**20 + 1),
    ('num_steps', True),
    ('num_steps', '8'),
    ('num_steps', None),
    ('sampler', 3),
    ('sampler', 'magic'),
    ('sampler', 'ancestral:gamma=lots'),
    ('model', None),
    ('model', {'name': 'mlp', 'mean_type': 'v'}),
    ('model', {'name': 'mlp', 'mean_type': 'v', 'args': [1]}),
    ('model', model(name='no_network')),
    ('model', model(name=['mlp'])),
    ('model', model(mean_type='w')),
    ('model', model(widht=8)),
    ('model', model(width='many')),
    ('model', model(width=0)),
    ('model', model(width=None)),
    ('model', model(dtype='float3')),
    ('model', model(num_classes=4)),
    ('model', model(name='unet_iddpm', ch=0)),
    ('model', model(name='unet_iddpm', ch_mult=3)),
    ('model', model(name='unet_iddpm', ch_mult=[])),
    ('model', model(name='unet_iddpm', ch_mult=[1] * 9)),
    ('logsnr_schedule', 'cosine'),
    ('logsnr_schedule', {}),
    ('logsnr_schedule', {'name': 'sine'}),
    ('logsnr_schedule', {'name': ['cosine']}),
    ('logsnr_schedule', {'name': 'cosine', 'logsnr_min': 'low'}),
    ('logsnr_schedule', {'name': 'cosine', 'logsnr_min': 30.0}),
    ('logsnr_schedule', {'name': 'cosine', 'speed': 1}),
    ('clip', 'no'),
    ('image_shape', [8, 8]),
    ('image_shape', [8, 8, 0]),
    ('image_shape', [2**40, 8, 1]),
    ('num_classes', 1.5),
    ('num_classes', 2**40),
    ('dataset', 'digits'),
    ('objective', None),
    ('parent', 7),
    ('parent_checksum', 7),
    ('updates', '3'),
    ('num_updates', -1),
    ('config', 'none'),
    ('config', {'model': 3}),
    ('versions', 'all'),
  ],
)
def test_an_invalid_value_in_a_card_is_named(name, value):
  values = {**CARD.to_json(), name: value}
  with pytest.raises(
    UserError, match=f'the card of here is not valid: its {name} '
  ) as caught:
    Card.from_json(values, 'here')
  assert '\n' not in str(caught.value)
