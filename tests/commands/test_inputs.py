"""Classes as flags give them."""

import types

import pytest

from diffusion_distillation.commands.inputs import parse_classes, sampling_of
from diffusion_distillation.runtime.errors import UserError


@pytest.mark.parametrize(
  ('text', 'classes'), [('3', [3]), ('1,5', [1, 5]), ('5, 1', [5, 1])]
)
def test_classes_parse(text, classes):
  assert parse_classes(text, 10).tolist() == classes
  assert parse_classes(None, 10) is None


def test_classes_are_refused_for_a_checkpoint_without_classes():
  assert parse_classes(None, 1) is None
  with pytest.raises(UserError, match='this checkpoint has no classes'):
    parse_classes('0', 1)


@pytest.mark.parametrize('text', ['10', '-1', 'cat', '1,', '1-3', '3.0'])
def test_an_unknown_class_is_refused(text):
  with pytest.raises(UserError, match='must be one or more of 0 to 9'):
    parse_classes(text, 10)


def test_the_error_for_classes_gives_a_valid_example():
  with pytest.raises(UserError, match='0 to 1, such as 0 or 0,1'):
    parse_classes('2', 2)


@pytest.mark.parametrize(
  ('spelling', 'warns'),
  [('gamma_ddim:theta_0=0.1', False), ('gamma_ddim', True), ('ddim', False)],
)
def test_a_sampler_of_other_noise_gives_a_warning(spelling, warns, capsys):
  config = {'model': {'noise': 'gamma', 'theta_0': 0.1}}
  card = types.SimpleNamespace(config=config, num_steps=4, sampler='ddim')
  assert sampling_of(card, spelling) == (spelling, 4)
  told = capsys.readouterr().err
  assert ('with model.noise=gamma, model.theta_0=0.001' in told) == warns
  assert told.count('\n') == warns
