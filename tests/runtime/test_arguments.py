"""Arguments of configs against the annotations of what takes them."""

from collections.abc import Callable, Sequence

import pytest

from diffusion_distillation.runtime.arguments import check_arguments


def function(
  count: int = 1,
  rate: float = 0.5,
  flag: bool = False,
  name: str | None = None,
  sizes: Sequence[int] = (),
  call: Callable[[int], str] = str,
  pair: tuple[int, int] = (0, 0),
  free=None,
):
  """Takes arguments of all kinds."""


@pytest.mark.parametrize(
  'args',
  [
    {'count': 2, 'rate': 1, 'flag': True, 'name': None, 'sizes': [1, 2]},
    {'rate': 0.1, 'name': 'x', 'sizes': (), 'free': object()},
    # These are not compared.
    {'call': 3, 'pair': 'x'},
  ],
)
def test_valid_arguments_are_accepted(args):
  check_arguments(function, args, 'model.args.')


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ({'count': '2'}, "count must be int, got '2'"),
    ({'count': 2.0}, 'count must be int, got 2.0'),
    ({'count': True}, 'count must be int, got True'),
    ({'count': None}, 'count must be int, got None'),
    ({'rate': 'a'}, "rate must be float, got 'a'"),
    ({'flag': 'no'}, "flag must be bool, got 'no'"),
    ({'flag': 1}, 'flag must be bool, got 1'),
    ({'name': 3}, 'name must be str | None, got 3'),
    ({'sizes': 4}, 'sizes must be Sequence[int], got 4'),
    ({'sizes': '12'}, "sizes must be Sequence[int], got '12'"),
    ({'sizes': (1, 'a')}, "sizes must be Sequence[int], got (1, 'a')"),
  ],
)
def test_invalid_arguments_are_named(args, message):
  with pytest.raises(ValueError) as caught:
    check_arguments(function, args, 'model.args.')
  assert str(caught.value) == f'model.args.{message}'


def test_unknown_names_list_the_known_ones():
  with pytest.raises(
    ValueError, match=r'unknown key args\.x; known: count, ra'
  ):
    check_arguments(function, {'x': 1}, 'args.')
  with pytest.raises(ValueError, match=r'unknown key args\.count; known: rate'):
    check_arguments(function, {'count': 1}, 'args.', ('count',))
