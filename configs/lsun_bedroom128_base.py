"""The paper's teacher of LSUN bedrooms, 128x128, 139.6M parameters.

python main.py --config=configs/lsun_bedroom128_base.py --workdir=runs/lsun

The paper trained on 64 TPUv4 chips. By count it is 3.3e20 FLOP, 0.8 PFLOP an
update: about 230 hours of one H200 if it ran at 40 % of its bfloat16 peak,
which is an estimate. The paper gives no FID of it in numbers. The length of
training is our choice, since the original has none.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config():
  config = base.get_config()
  config.dataset.name = 'lsun_bedroom128'
  config.dataset.args = ConfigDict(
    {
      'random_flip': True,
      # Where TensorFlow Datasets keeps its data; absent: its own default.
      'data_dir': config_dict.placeholder(str),
    }
  )

  config.model.args.update(
    ch=64,
    emb_ch=768,
    ch_mult=(1, 2, 4, 6, 8),
    num_res_blocks=3,
    attn_resolutions=(8, 16, 32),
    head_dim=64,
    dropout=0.1,
  )
  config.model.mean_type = 'both'

  config.train.update(
    num_updates=400_000,
    batch_size=2048,
    learning_rate=3e-4,
    learning_rate_warmup_steps=1000,
    substeps=10,
  )
  # Beyond, 50,000 samples cost more than they tell.
  config.eval.max_num_steps = 1024
  return config
