"""Fashion-MNIST averaged to 14x14, from 64 sampling steps to 1, for studies.

python main.py --config=configs/fashion_mnist14_distill.py --workdir=runs/f14

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2), with other work on them.
Time: 22 minutes for the training, 8 for the evaluation.
Expect: a Frechet distance of 4.8 for the teacher with 64 steps, and for the
  students 5.7 with 4 and 9.4 with 1, where the teacher has 33 and 260. Held-out
  images are at 0.5.
"""

from . import base, fashion_mnist14_base


def get_config():
  config = base.to_distill(fashion_mnist14_base.get_config())
  config.train.learning_rate = 1e-3
  config.distillation.start_num_steps = 64
  config.distillation.steps_per_iter = 500
  return config
