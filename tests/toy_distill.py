"""Digits with a network that compiles in a second, for the tests.

python main.py --config=tests/toy_distill.py --workdir=DIR
"""

from ml_collections import ConfigDict

from . import digits_distill


def get_config():
  config = digits_distill.get_config()
  config.model.name = 'mlp'
  config.model.args = ConfigDict(
    {'width': 16, 'depth': 1, 'dropout': 0.0, 'dtype': 'float32'}
  )
  config.dataset.args.class_conditional = True
  config.train.batch_size = config.teacher.train.batch_size = 16
  config.teacher.train.num_updates = 4
  config.distillation.update(start_num_steps=4, steps_per_iter=3)
  config.eval.update(num_samples=20, batch_size=8, student_samplers=('ddim',))
  return config
