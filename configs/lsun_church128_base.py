"""LSUN church teacher of the paper, 128x128, 139.6M parameters.

python main.py --config=configs/lsun_church128_base.py
  --workdir=runs/church_teacher

Hardware: not run at this size here; the paper used 64 TPU v4 chips.
Time: 8.0e19 FLOP (--mode=plan); 56 hours of one H200 at an estimated 40 % of
  its bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: the paper shows samples and gives no FID in numbers.

The original's config has no length of training; 100k updates are our choice.
"""

from . import lsun_bedroom128_base


def get_config():
  config = lsun_bedroom128_base.get_config()
  config.dataset.name = 'lsun_church128'
  config.train.num_updates = 100_000
  return config
