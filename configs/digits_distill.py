"""Handwritten digits, from 64 sampling steps to 1.

python main.py --config=configs/digits_distill.py --workdir=runs/digits
"""

from configs import base, digits_base


def get_config():
  config = base.to_distill(digits_base.get_config())
  config.train.learning_rate = 5e-4
  config.distillation.start_num_steps = 64
  config.distillation.steps_per_iter = 600
  return config
