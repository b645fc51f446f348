"""Handwritten digits from 64 sampling steps to 1.

python main.py --config=configs/digits_distill.py --workdir=runs/digits

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2).
Time: 6.7 minutes; 1.1 for the teacher, 0.5 per round, the rest for compilation
  and evaluation.
Expect: a Frechet distance of 0.45 for the teacher with 64 steps, and for the
  students 0.55 with 4 and 0.77 with 1, where the teacher has 3.6 and 111.
"""

from . import base, digits_base


def get_config():
  config = base.to_distill(digits_base.get_config())
  config.train.learning_rate = 1e-3
  config.distillation.start_num_steps = 64
  config.distillation.steps_per_iter = 800
  config.eval.student_samplers = ('ddim', 'stochastic')
  return config
