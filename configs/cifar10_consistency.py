"""Distills CIFAR-10 to a consistency model, sampled in 1, 2, 4 or 8 steps.

python main.py --config=configs/cifar10_consistency.py --workdir=runs/cifar10_cd

Its teacher predicts v, since the head of a consistency model must return clean
images unchanged.

Hardware: not run at this size.
Time: 1 round, 800k updates in all, 8.4e19 FLOP (--mode=plan), after 1.0e19
  for the teacher; 59 and 7 hours of one H200 at an estimated 40 % of its
  bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: an FID of 3.55 with 1 step and 2.93 with 2, with LPIPS as the distance
  and a better teacher (Song et al. 2023, arXiv 2303.01469, Table 1). Without
  LPIPS, which needs a network of its own, it will be worse.
"""

from . import base, cifar10_base


def get_config():
  config = base.to_distill(cifar10_base.get_config())
  config.model.mean_type = 'v'
  config.model.mean_loss_weight_type = 'constant'
  config.train.update(
    batch_size=512,
    optimizer='radam',
    learning_rate=4e-4,
    learning_rate_anneal_type='constant',
    ema_decay=0.9999,
  )
  config.distillation.update(
    objective='consistency_distillation:levels=18,grid=karras,step=heun',
    steps_per_iter=800_000,
  )
  return config
