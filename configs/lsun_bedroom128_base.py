"""LSUN bedroom teacher of the paper, 128x128, 139.6M parameters.

python main.py --config=configs/lsun_bedroom128_base.py
  --workdir=runs/bedroom_teacher

Hardware: not run at this size here; the paper used 64 TPU v4 chips.
Time: 3.2e20 FLOP (--mode=plan); 220 hours of one H200 at an estimated 40 % of
  its bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: the paper shows samples and gives no FID in numbers.

The original's config has no length of training; 400k updates are our choice.
"""

from . import imagenet64_base, paper


def get_config():
  # Everything that is not set here is as for ImageNet.
  config = imagenet64_base.get_config()
  config.dataset.name = 'lsun_bedroom128'
  config.dataset.args = paper.tfds_args()
  config.model.args.update(ch=64, ch_mult=(1, 2, 4, 6, 8))
  config.train.num_updates = 400_000
  return config
