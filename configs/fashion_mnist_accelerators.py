"""Every way to few steps from one teacher of Fashion-MNIST, 14x14.

python main.py --config=configs/fashion_mnist_accelerators.py --workdir=runs/f14

Each way makes as many updates as the ladder of
configs/fashion_mnist14_distill.py.
"""

from . import digits_accelerators, fashion_mnist14_distill


def get_config():
  config = fashion_mnist14_distill.get_config()
  digits_accelerators.set_methods(config, num_updates=3000)
  config.eval.solution_num_steps = 256
  return config
