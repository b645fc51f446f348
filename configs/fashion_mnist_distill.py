"""Fashion-MNIST from 1,024 sampling steps to 1, on one GPU.

python main.py --config=configs/fashion_mnist_distill.py --workdir=runs/fashion

Hardware: one GPU. By the count of FLOPs, training takes 16 minutes at 100
TFLOP/s; it has not been run yet. configs/fashion_mnist_small_distill.py is for
two CPU cores.
"""

from . import base, fashion_mnist_base


def get_config():
  config = base.to_distill(fashion_mnist_base.get_config())
  config.train.learning_rate = 2e-4
  config.distillation.start_num_steps = 1024
  config.distillation.steps_per_iter = 4000
  config.eval.student_samplers = ('ddim', 'stochastic')
  return config
