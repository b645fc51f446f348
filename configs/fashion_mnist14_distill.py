"""Fashion-MNIST averaged to 14x14, from 64 sampling steps to 1, for studies.

python main.py --config=configs/fashion_mnist14_distill.py --workdir=runs/f14
"""

from . import base, fashion_mnist14_base


def get_config():
  config = base.to_distill(fashion_mnist14_base.get_config())
  config.train.learning_rate = 1e-3
  config.distillation.start_num_steps = 64
  config.distillation.steps_per_iter = 500
  return config
