"""The paper's teacher of LSUN bedrooms, 128x128, 139.6M parameters.

python main.py --config=configs/lsun_bedroom128_base.py --workdir=runs/lsun

The paper trained on 64 TPUv4 chips. By count it is 3.3e20 FLOP, 0.8 PFLOP an
update: about 230 hours of one H200 if it ran at 40 % of its bfloat16 peak,
which is an estimate. The paper gives no FID of it in numbers. The length of
training is our choice, since the original has none.
"""

from configs import imagenet64_base, paper


def get_config():
  # All but the data set's own is as for ImageNet.
  config = imagenet64_base.get_config()
  config.dataset.name = 'lsun_bedroom128'
  config.dataset.args = paper.prepared()
  config.model.args.update(ch=64, ch_mult=(1, 2, 4, 6, 8))
  config.train.num_updates = 400_000
  return config
