"""What --mode=evaluate refuses before it reads anything."""

import pytest

from configs import digits_base
from diffusion_distillation.commands.evaluate import evaluate
from diffusion_distillation.runtime.errors import UserError


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({}, 'needs one of --workdir=DIR, --checkpoint=PATH and --images=PATH'),
    ({'workdir': 'x', 'images': 'y'}, 'needs one of'),
    ({'checkpoint': 'x', 'images': 'y'}, 'needs one of'),
    (
      {'workdir': 'x', 'sampler': 'ddim'},
      '--sampler, --grid and --num_steps need',
    ),
    ({'images': 'x', 'num_steps': 3}, '--sampler, --grid and --num_steps need'),
    ({'workdir': 'x', 'config': None}, 'needs --config'),
    ({'images': 'x', 'config': None}, 'needs --config'),
  ],
)
def test_what_to_measure_must_be_clear(values, message):
  with pytest.raises(UserError, match=message):
    evaluate(**{'config': digits_base.get_config(), **values})
