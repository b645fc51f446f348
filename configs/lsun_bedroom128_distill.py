"""LSUN bedrooms, 128x128, from 1,024 sampling steps to 1, as in the paper.

python main.py --config=configs/lsun_bedroom128_distill.py --workdir=runs/lsun

10 rounds, 600,000 updates, by count 8.2e20 FLOP, beside 3.3e20 for the teacher:
about 580 and 230 hours of one H200 if it ran at 40 % of its bfloat16 peak,
which is an estimate; the paper used 64 TPUv4 chips. The paper gives no FID in
numbers, but calls its results near optimal down to 4 or 8 steps.

To distill a teacher of Google's, which was at
gs://gresearch/diffusion-distillation/bedroom_original:
--config.distillation.teacher_checkpoint_path=PATH
"""

from configs import base, lsun_bedroom128_base, paper


def get_config():
  config = base.to_distill(lsun_bedroom128_base.get_config())
  config.train.update(learning_rate=1e-4, checkpoint_every_secs=1500)
  paper.set_paper_ladder(config, 1024)
  return config
