"""Classes of seeds in --mode=sample."""

import numpy as np
import pytest

from diffusion_distillation.commands.sample import labels_of
from diffusion_distillation.runtime.errors import UserError

SEEDS = np.arange(20, 32)


@pytest.mark.parametrize(
  ('class_', 'labels'),
  [
    (None, SEEDS % 10),
    ('3', np.full(12, 3)),
    ('1,5', [1, 5] * 6),
    ('5, 1', [5, 1] * 6),
  ],
)
def test_classes_are_drawn_in_turn(class_, labels):
  got = labels_of(SEEDS, class_, 10)
  np.testing.assert_array_equal(got, labels)
  assert got.dtype == np.int32


def test_the_class_of_a_seed_depends_on_no_other_seed():
  for class_ in (None, '3', '1,5'):
    whole = labels_of(SEEDS, class_, 10)
    np.testing.assert_array_equal(whole[3:], labels_of(SEEDS[3:], class_, 10))


def test_without_classes_all_labels_are_0():
  np.testing.assert_array_equal(labels_of(SEEDS, None, 1), np.zeros(12))
  with pytest.raises(UserError, match='this checkpoint has no classes'):
    labels_of(SEEDS, '0', 1)


@pytest.mark.parametrize('class_', ['10', '-1', 'cat', '1,', '1-3', '3.0'])
def test_an_unknown_class_is_refused(class_):
  with pytest.raises(UserError, match='must be one or more of 0 to 9'):
    labels_of(SEEDS, class_, 10)
