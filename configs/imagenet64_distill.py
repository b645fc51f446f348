"""ImageNet 64x64 from 1,024 sampling steps to 1, as in the paper.

python main.py --config=configs/imagenet64_distill.py --workdir=runs/imagenet64

Hardware: not run at this size here; the paper used 64 TPU v4 chips.
Time: 10 rounds, 600k updates in all, 1.3e21 FLOP (--mode=plan), after 7.1e20
  for the teacher; 910 and 500 hours of one H200 at an estimated 40 % of its
  bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: an FID of 2.95 with 8 steps, 3.9 with 4, 7.4 with 2, 16.1 with 1 (read
  off the paper's Figure 4, one run).

To distill Google's teacher
(gs://gresearch/diffusion-distillation/imagenet_original):
--config.distillation.teacher_checkpoint_path=PATH
"""

from . import base, imagenet64_base, paper


def get_config():
  config = base.to_distill(imagenet64_base.get_config())
  config.train.learning_rate = 1e-4
  paper.set_rounds(config, 1024)
  return config
