"""LSUN church, 128x128, from 1,024 sampling steps to 1, as in the paper.

python main.py --config=configs/lsun_church128_distill.py --workdir=runs/church

Hardware: not run at this size here; the paper used 64 TPU v4 chips.
Time: 10 rounds, 600k updates in all, 8.0e20 FLOP (--mode=plan), after 8.0e19
  for the teacher; 560 and 56 hours of one H200 at an estimated 40 % of its
  bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: no FID in numbers; the paper calls its results near optimal down to 4 or
  8 steps.

To distill Google's teacher
(gs://gresearch/diffusion-distillation/church_original):
--config.distillation.teacher_checkpoint_path=PATH
"""

from . import lsun_bedroom128_distill


def get_config():
  config = lsun_bedroom128_distill.get_config()
  config.dataset.name = 'lsun_church128'
  config.teacher.train.num_updates = 100_000
  return config
