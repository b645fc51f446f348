"""Every way to few steps from one teacher of digits, at the same budget.

python main.py --config=configs/digits_accelerators.py --workdir=runs/ways

Each way makes as many updates as the ladder of configs/digits_distill.py.
"""

from . import digits_distill

# Updates of all rounds of a way together.
_UPDATES = 4800


def get_config():
  config = digits_distill.get_config()
  # The ways that draw on their own predictions need an average.
  averaged = {'ema_decay': 0.99}
  methods = config.distillation.methods
  methods.progressive = _method('progressive', rounds=6)
  methods.progressive_ema = _method('progressive', rounds=6, train=averaged)
  methods.progressive_by_8 = _method('progressive:factor=8', rounds=2)
  methods.tract = _method('tract:factor=8', rounds=2, train=averaged)
  methods.consistency = _method(
    'consistency_distillation:levels=64', train=averaged
  )
  methods.segments = _method(
    'consistency_distillation:segments=8', rounds=4, train=averaged
  )
  methods.tuning = _method(
    'easy_consistency_tuning',
    train=averaged,
    model={'mean_loss_weight_type': 'constant'},
  )
  methods.one_shot = _method('one_shot:pairs=20000', train=averaged)
  config.eval.student_samplers = ('ddim',)
  config.eval.samplers = ('ddim', 'dpmpp_2m', 'unipc')
  config.eval.num_steps = (1, 2, 4, 8, 64)
  config.eval.solution_num_steps = 1024
  return config


def _method(objective, rounds=1, **changes):
  """Returns the keys of a way that shares the updates among its rounds."""
  distillation = {'objective': objective, 'steps_per_iter': _UPDATES // rounds}
  return {'distillation': distillation, **changes}
