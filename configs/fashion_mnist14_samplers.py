"""Integrators on one teacher of Fashion-MNIST, 14x14, beside its students.

python main.py --config=configs/fashion_mnist14_samplers.py --workdir=runs/f14

With --mode=evaluate it only measures, in the folder of a finished run of
configs/fashion_mnist14_distill.py.

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2), with other work on them.
Time: half an hour after the training, a quarter of it for the solution.
Expect: the table of integrators in docs/studies.md.
"""

from . import digits_samplers, fashion_mnist14_distill


def get_config():
  config = fashion_mnist14_distill.get_config()
  config.eval.samplers = (
    'ddim',
    'euler_t',
    'euler',
    'heun',
    'rk4',
    'dpmpp_2m',
    'unipc',
    'ancestral',
  )
  digits_samplers.set_costs(config)
  config.eval.solution_num_steps = 256
  return config
