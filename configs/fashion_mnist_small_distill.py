"""Fashion-MNIST, 28x28, from 256 sampling steps to 1, on two CPU cores.

python main.py --config=configs/fashion_mnist_small_distill.py --workdir=runs/fm

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2).
Time: 2.3 hours with nothing else to do, by the measured speed of both steps,
  763 and 1,048 ms: 64 minutes for the teacher, 35 for the students, 35 for the
  evaluation. The published run shared the cores with other work, was
  interrupted several times, and took three times as long.
Expect: a Frechet distance of 10.5 for the teacher with 256 steps, and for the
  students 15.2 with 4 and 29.6 with 1, where the teacher has 140 and 540.
  Held-out images are at 2.0.
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
