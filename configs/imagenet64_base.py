"""ImageNet 64x64 teacher of the paper, class-conditional, 295.9M parameters.

python main.py --config=configs/imagenet64_base.py
  --workdir=runs/imagenet64_teacher

Hardware: not run at this size here; the paper used 64 TPU v4 chips.
Time: 7.1e20 FLOP (--mode=plan); 500 hours of one H200 at an estimated 40 % of
  its bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: an FID of 2.6 with 512 DDIM steps and 2.1 with the stochastic sampler
  (read off the paper's Figure 4).

The original's config has no length of training; 550k updates are our choice.
"""

from . import base, paper


def get_config():
  config = base.get_config()
  config.dataset.name = 'imagenet64'
  config.dataset.args = paper.tfds_args(class_conditional=True)

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
  # More steps are expensive to evaluate and hardly change the FID.
  config.eval.max_num_steps = 1024
  return config
