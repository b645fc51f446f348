"""LSUN churches, 128x128, from 1,024 sampling steps to 1, as in the paper.

python main.py --config=configs/lsun_church128_distill.py --workdir=runs/lsun

10 rounds, 600,000 updates, by count 8.2e20 FLOP, beside 8.2e19 for the teacher:
about 580 and 58 hours of one H200 if it ran at 40 % of its bfloat16 peak, which
is an estimate; the paper used 64 TPUv4 chips. The paper gives no FID in
numbers, but calls its results near optimal down to 4 or 8 steps.

To distill a teacher of Google's, which was at
gs://gresearch/diffusion-distillation/church_original:
--config.distillation.teacher_checkpoint_path=PATH
"""

from configs import lsun_bedroom128_distill


def get_config():
  config = lsun_bedroom128_distill.get_config()
  config.dataset.name = 'lsun_church128'
  config.teacher.train.num_updates = 100_000
  return config
