"""The paper's teacher of LSUN churches, 128x128, 139.6M parameters.

python main.py --config=configs/lsun_church128_base.py --workdir=runs/lsun

The paper trained on 64 TPUv4 chips. By count it is 8.2e19 FLOP, 0.8 PFLOP an
update: about 58 hours of one H200 if it ran at 40 % of its bfloat16 peak, which
is an estimate. The paper gives no FID of it in numbers. The length of training
is our choice, since the original has none.
"""

from configs import lsun_bedroom128_base


def get_config():
  config = lsun_bedroom128_base.get_config()
  config.dataset.name = 'lsun_church128'
  config.train.num_updates = 100_000
  return config
