"""Integrators of the probability-flow ODE on digits (paper, appendix C).

python main.py --config=configs/digits_integrators.py --workdir=runs/integrators

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2).
Time: 1.1 minutes for the teacher, 4 for the samples.
Expect: the Frechet distances in docs/samplers.md. At an equal NFE of 8 or more,
  Euler's method in log-SNR is the best of them and Heun's, whose first step
  from pure noise is inaccurate, the worst. In one step, all of them are DDIM.
"""

from . import digits_base


def get_config():
  config = digits_base.get_config()
  config.eval.samplers = ('ddim', 'euler_t', 'euler', 'heun', 'rk4')
  config.eval.num_steps = (1, 2, 4, 8, 16, 32, 64)
  return config
