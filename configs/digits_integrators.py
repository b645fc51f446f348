"""Integrators of the probability-flow ODE on digits (paper, appendix C).

python main.py --config=configs/digits_integrators.py --workdir=runs/integrators

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2).
Time: 1.1 minutes for the teacher, 4 for the samples.
Expect: these Frechet distances, with the NFE in brackets. In one step, all of
  them are DDIM.

  steps        2          4         8         16         32         64
  ddim     17  (2)   5.0  (4)  2.3  (8)  1.5 (16)   1.3 (32)   1.2 (64)
  euler_t  12  (2)   3.7  (4)  1.8  (8)  1.3 (16)   1.2 (32)   1.1 (64)
  euler    19  (2)   5.2  (4)  1.6  (8)  1.1 (16)   1.0 (32)   1.0 (64)
  heun     11  (3)   7.5  (7)  4.2 (15)  2.1 (31)   1.4 (63)   1.2 (127)
  rk4     3.0  (5)   1.1 (13)  1.0 (29)  1.1 (61)   1.1 (125)  1.1 (253)

At equal NFE of 8 and more, both Euler methods and RK4 are better than DDIM, and
Heun, whose first step from pure noise is inaccurate, is the worst.
"""

from . import digits_base


def get_config():
  config = digits_base.get_config()
  config.eval.samplers = ('ddim', 'euler_t', 'euler', 'heun', 'rk4')
  config.eval.num_steps = (1, 2, 4, 8, 16, 32, 64)
  return config
