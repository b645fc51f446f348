"""Compares all distillation methods on one teacher of digits.

python main.py --config=configs/digits_accelerators.py --workdir=runs/ways

Each method makes as many updates as the rounds of configs/digits_distill.py
together. With --config.eval.seeds=3 the whole run is repeated with three seeds,
and ± is the standard deviation between them in place of the standard error of
the samples.
"""

from . import digits_distill


def get_config():
  config = digits_distill.get_config()
  set_methods(config, num_updates=4800)
  config.eval.solution_num_steps = 1024
  return config


def set_methods(config, num_updates):
  """Sets the methods, for a teacher of 64 steps, and the samplers beside them.

  Args:
    config: a config of students.
    num_updates: updates of all rounds of a method.
  """

  def method(objective, rounds=1, **changes):
    updates = num_updates // rounds
    distillation = {'objective': objective, 'steps_per_iter': updates}
    return {'distillation': distillation, **changes}

  # Methods that learn from their own predictions need an average.
  averaged = {'train': {'ema_decay': 0.99}}
  unweighted = {'model': {'mean_loss_weight_type': 'constant'}}
  config.distillation.methods = {
    'progressive': method('progressive', rounds=6),
    'progressive_ema': method('progressive', rounds=6, **averaged),
    'progressive_by_8': method('progressive:factor=8', rounds=2),
    'tract': method('tract:factor=8', rounds=2, **averaged),
    'consistency': method('consistency_distillation:levels=64', **averaged),
    'segments': method(
      'consistency_distillation:segments=8', rounds=4, **averaged
    ),
    'tuning': method('easy_consistency_tuning', **averaged),
    'training': method('consistency_training', **averaged, **unweighted),
    'improved_training': method(
      'improved_consistency_training:levels=160', **averaged
    ),
    'one_shot': method('one_shot:pairs=20000', **averaged),
  }
  config.eval.student_samplers = ('ddim',)
  config.eval.samplers = ('ddim', 'dpmpp_2m', 'unipc')
  config.eval.num_steps = (1, 2, 4, 8, 64)
