"""A teacher of digits by sliced score matching, which sees no clean image.

python main.py --config=configs/digits_score_matching.py --workdir=runs/score

Its noise levels are geometric, as in NCSN: 30 from 0.06 to 20. Besides DDIM,
annealed Langevin dynamics samples it.
"""

import math

from . import digits_base


def get_config():
  config = digits_base.get_config()
  config.objective = 'sliced_score_matching'
  levels = {'logsnr_min': -2 * math.log(20), 'logsnr_max': -2 * math.log(0.05)}
  for schedule in ('train_logsnr_schedule', 'eval_logsnr_schedule'):
    config.model[schedule].update(name='uniform', **levels)
  config.model.train_num_steps = 30
  config.model.eval_sampling_num_steps = 30
  config.eval.samplers = ('ddim', 'annealed_langevin')
  config.eval.num_steps = (30,)
  return config
