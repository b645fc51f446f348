"""The paper's teacher of CIFAR-10, unconditional, 60.0M parameters.

python main.py --config=configs/cifar10_base.py --workdir=runs/cifar10_teacher

The paper trained on 8 TPUv4 chips. By count it is 1.1e19 FLOP, 14 TFLOP an
update: about 8 hours of one H200 if it ran at 40 % of its bfloat16 peak, which
is an estimate. Expect the paper's FID of 2.51 with DDIM and 2.53 with the
stochastic sampler, Inception Score 9.58 and 9.92 (Table 1: the best of 2M
updates, mean of 3 seeds). It says 1,024 sampling steps in the original's
config; the length of training is our choice, since the original has none.
"""

from configs import base, paper


def get_config():
  config = base.get_config()
  config.dataset.name = 'cifar10'
  config.dataset.args = paper.prepared(class_conditional=False)

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
  # Beyond, 50,000 samples cost more than they tell.
  config.eval.max_num_steps = 1024
  return config
