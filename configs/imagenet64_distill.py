"""ImageNet 64x64, from 1,024 sampling steps to 1, as in the paper.

python main.py --config=configs/imagenet64_distill.py --workdir=runs/imagenet64

10 rounds, 600,000 updates, by count 1.3e21 FLOP, beside 7.4e20 for the teacher:
about 950 and 520 hours of one H200 if it ran at 40 % of its bfloat16 peak,
which is an estimate; the paper used 64 TPUv4 chips. Expect an FID (read off the
paper's Figure 4, one run) of 2.95 with 8 steps, 3.9 with 4, 7.4 with 2 and 16.1
with 1.

To distill a teacher of Google's, which was at
gs://gresearch/diffusion-distillation/imagenet_original:
--config.distillation.teacher_checkpoint_path=PATH
"""

from configs import base, imagenet64_base, paper


def get_config():
  config = base.to_distill(imagenet64_base.get_config())
  config.train.learning_rate = 1e-4
  paper.set_paper_ladder(config, 1024)
  return config
