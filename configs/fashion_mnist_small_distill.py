"""Fashion-MNIST, 28x28, from 256 sampling steps to 1, on two CPU cores.

python main.py --config=configs/fashion_mnist_small_distill.py --workdir=runs/fm

It has not been run yet. By the count of FLOPs, training takes 2.5 hours at 60
GFLOP/s, which two CPU cores reach.
"""

from . import base, fashion_mnist_small_base


def get_config():
  config = base.to_distill(fashion_mnist_small_base.get_config())
  config.train.learning_rate = 1e-3
  config.distillation.start_num_steps = 256
  config.distillation.steps_per_iter = 250
  config.eval.num_steps = (256, 64, 16, 8, 4, 2, 1)
  config.eval.samplers = ('ddim',)
  return config
