"""Compares all distillation methods on one teacher of Fashion-MNIST, 14x14.

python main.py --config=configs/fashion_mnist_accelerators.py --workdir=DIR

Each method makes as many updates as the rounds of
configs/fashion_mnist14_distill.py together.
"""

from . import digits_accelerators, fashion_mnist14_distill


def get_config():
  config = fashion_mnist14_distill.get_config()
  digits_accelerators.set_methods(config, num_updates=3000)
  config.eval.solution_num_steps = 256
  return config
