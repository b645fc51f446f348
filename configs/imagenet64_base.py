"""The paper's teacher of ImageNet 64x64, class-conditional, 295.9M parameters.

python main.py --config=configs/imagenet64_base.py --workdir=runs/imagenet64

The paper trained on 64 TPUv4 chips. By count it is 7.4e20 FLOP, 1.3 PFLOP an
update: about 520 hours of one H200 if it ran at 40 % of its bfloat16 peak,
which is an estimate. Expect an FID of 2.6 with 512 DDIM steps and 2.1 with the
stochastic sampler (read off the paper's Figure 4). The length of training is
our choice, since the original has none.
"""

from configs import base, paper


def get_config():
  config = base.get_config()
  config.dataset.name = 'imagenet64'
  config.dataset.args = paper.prepared(class_conditional=True)

  config.model.args.update(
    ch=192,
    emb_ch=768,
    ch_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    attn_resolutions=(8, 16, 32),
    head_dim=64,
    dropout=0.1,
  )
  config.model.mean_type = 'both'

  config.train.update(
    num_updates=550_000,
    batch_size=2048,
    learning_rate=3e-4,
    learning_rate_warmup_steps=1000,
    substeps=10,
  )
  # Beyond, 50,000 samples cost more than they tell.
  config.eval.max_num_steps = 1024
  return config
