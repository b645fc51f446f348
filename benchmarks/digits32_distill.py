"""The digits' network on 32x32 colour images: to measure, not to train.

python -m benchmarks --suite=steps --config=benchmarks/digits32_distill.py
"""

from configs import digits_distill


def get_config():
  config = digits_distill.get_config()
  config.dataset.name = 'cifar10'
  config.train.batch_size = config.teacher.train.batch_size = 16
  return config
