"""LSUN bedroom, 128x128, from 1,024 sampling steps to 1, as in the paper.

python main.py --config=configs/lsun_bedroom128_distill.py
  --workdir=runs/bedroom

Hardware: not run at this size here; the paper used 64 TPU v4 chips.
Time: 10 rounds, 600k updates in all, 8.0e20 FLOP (--mode=plan), after 3.2e20
  for the teacher; 560 and 220 hours of one H200 at an estimated 40 % of its
  bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: no FID in numbers; the paper calls its results near optimal down to 4 or
  8 steps.

To distill Google's teacher
(gs://gresearch/diffusion-distillation/bedroom_original):
--config.distillation.teacher_checkpoint_path=PATH
"""

from . import base, lsun_bedroom128_base, paper


def get_config():
  config = base.to_distill(lsun_bedroom128_base.get_config())
  config.train.update(learning_rate=1e-4, checkpoint_every_secs=1500)
  paper.set_rounds(config, 1024)
  return config
