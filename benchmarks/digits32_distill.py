"""The network of the digits on 32x32 colour images, for measurements only.

python -m benchmarks --suite=steps --config=benchmarks/digits32_distill.py
"""

from . import digits_distill


def get_config():
  config = digits_distill.get_config()
  config.dataset.name = 'cifar10'
  config.model.args.attn_resolutions = ()  # no level is 4 pixels high
  config.train.batch_size = config.teacher.train.batch_size = 16
  return config
