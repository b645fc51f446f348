"""CIFAR-10, from 8,192 sampling steps to 1, as in the paper.

python main.py --config=configs/cifar10_distill.py --workdir=runs/cifar10

13 rounds, 750,000 updates, by count 1.7e19 FLOP, beside 1.1e19 for the teacher:
about 12 and 8 hours of one H200 if it ran at 40 % of its bfloat16 peak, which
is an estimate; the paper used 8 TPUv4 chips. Expect the paper's FID (Table 2,
mean of 4 seeds): 2.57 with 8 steps, 3.00 with 4, 4.51 with 2, 9.12 with 1.

To distill a teacher of Google's, which was at
gs://gresearch/diffusion-distillation/cifar_original:
--config.distillation.teacher_checkpoint_path=PATH
"""

from configs import base, cifar10_base, paper


def get_config():
  config = base.to_distill(cifar10_base.get_config())
  config.train.learning_rate = 5e-5
  paper.set_paper_ladder(config, 8192)
  return config
