"""Distills ImageNet 64x64 to consistency models of 8, 4, 2 and 1 segments.

python main.py --config=configs/imagenet64_multistep_consistency.py \\
  --workdir=runs/imagenet64_segments

Hardware: not run at this size.
Time: 4 rounds, 800k updates in all, 1.7e21 FLOP (--mode=plan), after 7.1e20
  for the teacher; 1,215 and 500 hours of one H200 at an estimated 40 % of its
  bfloat16 peak,
  which needs --config.model.args.dtype=bfloat16.
Expect: an FID of 1.6 with 8 steps, 1.7 with 4, 2.0 with 2, 4.3 with 1 (Heek et
  al. 2024, arXiv 2403.06807, Table 1, consistency distillation, small network).
"""

from . import base, imagenet64_base


def get_config():
  config = base.to_distill(imagenet64_base.get_config())
  config.model.mean_loss_weight_type = 'v_mse'
  config.train.update(learning_rate=1e-4, ema_decay=0.9999)
  config.distillation.update(
    objective=(
      'consistency_distillation:levels=1280,first_levels=64,step=addim,'
      'distance=norm,segments=8'
    ),
    start_num_steps=1024,
    steps_per_iter=200_000,
  )
  return config
