"""CIFAR-10 teacher of the paper, unconditional, 60.0M parameters.

python main.py --config=configs/cifar10_base.py --workdir=runs/cifar10_teacher

Hardware: not run at this size here; the paper used 8 TPU v4 chips.
Time: 1.0e19 FLOP (--mode=plan); 7 hours of one H200 at an estimated 40 % of
  its bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: the paper's FID of 2.51 with DDIM and 2.53 with the stochastic sampler,
  Inception Score 9.58 and 9.92 (Table 1: best of 2M updates, mean of 3 seeds).

The original's config says 1,024 sampling steps and no length of training; 800k
updates are our choice.
"""

from . import base, paper


def get_config():
  config = base.get_config()
  config.dataset.name = 'cifar10'
  config.dataset.args = paper.tfds_args(class_conditional=False)

  config.model.args.update(
    ch=256,
    emb_ch=1024,
    ch_mult=(1, 1, 1),
    num_res_blocks=3,
    attn_resolutions=(8, 16),
    num_heads=1,
    dropout=0.2,
  )
  config.model.mean_type = 'x'

  config.train.update(
    num_updates=800_000,
    batch_size=128,
    learning_rate=2e-4,
    learning_rate_warmup_steps=1000,
    weight_decay=0.001,
    substeps=10,
  )
  # More steps are expensive to evaluate and hardly change the FID.
  config.eval.max_num_steps = 1024
  return config
