"""Every sampler on one teacher of digits, beside its students.

python main.py --config=configs/digits_samplers.py --workdir=runs/digits

With --mode=evaluate it only measures, in the folder of a finished run of
configs/digits_distill.py.

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2).
Time: 11 minutes after the training, 4 of them for the teacher's own solution.
Expect: the table in docs/samplers.md.
"""

from . import digits_distill

# Steps from pure noise, and to data, are the hardest to solve. These levels
# leave them out: noise above 20 hides the image anyway, and noise below 0.1 is
# left to the last step.
KARRAS = '@karras:sigma_min=0.1,sigma_max=20'


def get_config():
  config = digits_distill.get_config()
  config.eval.samplers = (
    'ddim',
    'euler_t',
    'euler',
    'heun',
    'rk4',
    'dpmpp_2s',
    'dpmpp_3s',
    'dpmpp_2m',
    'dpmpp_3m',
    'dpmpp_3m:corrected=True',
    'dpm_2s',
    'dpm_2m',
    'unipc',
    'unipc:order=3',
    'dpmpp_2m@logsnr',
    f'ddim{KARRAS}',
    f'heun{KARRAS}',
    f'dpmpp_2s{KARRAS}',
    f'dpmpp_2m{KARRAS}',
    f'dpmpp_3m:corrected=True{KARRAS}',
    f'dpm_2m{KARRAS}',
    f'unipc{KARRAS}',
    f'unipc:order=3{KARRAS}',
    'ddim@quad',
    'ancestral',
    'ddim:eta=0.5',
    'euler_maruyama',
    'predictor_corrector',
  )
  set_costs(config)
  return config


def set_costs(config):
  """Sets the numbers of steps that samplers are compared at, and the truth."""
  config.eval.num_steps = (2, 4, 8, 16, 64)
  config.eval.max_nfe = 20
  config.eval.solution_num_steps = 1024
