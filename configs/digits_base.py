"""Teacher of 8x8 handwritten digits, unconditional, 0.2M parameters.

python main.py --config=configs/digits_base.py --workdir=runs/digits_teacher

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2).
Time: 1.1 minutes for the 2,500 updates.
Expect: a Frechet distance of 0.45 with 64 DDIM steps.

It is unconditional because that makes few steps hard without distillation.
--config.dataset.args.class_conditional=True trains it with classes, and
--mode=sample --class=3 then draws threes.
"""

from ml_collections import ConfigDict

from . import base


def get_config():
  config = base.get_config()
  config.dataset.name = 'digits'
  config.dataset.args = ConfigDict({'class_conditional': False})

  config.model.args.update(
    ch=16,
    emb_ch=64,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(4,),
    num_heads=1,
  )
  config.model.eval_sampling_num_steps = 64

  config.train.update(
    num_updates=2500,
    batch_size=64,
    learning_rate=1e-3,
    learning_rate_warmup_steps=100,
    ema_decay=0.999,
    checkpoint_every_secs=60,
  )
  config.eval.update(num_samples=2000, batch_size=500, features='classifier')
  # The statistics of so few images are not worth a cache.
  config.eval.cache_dir = None
  return config
