"""Teacher of Fashion-MNIST, 28x28 clothes, unconditional, 7.7M parameters.

python main.py --config=configs/fashion_mnist_base.py --workdir=runs/teacher

Debian's package dataset-fashion-mnist has the data; docs/data.md says how to
get them elsewhere. Samples are measured in the features of a small classifier,
which is trained on the same data before the first measurement.

Hardware: one GPU. By the count of FLOPs, 6 minutes at 100 TFLOP/s; it has not
been run yet.
"""

from ml_collections import ConfigDict, config_dict

from . import base


def get_config():
  config = base.get_config()
  config.dataset.name = 'fashion_mnist'
  config.dataset.args = ConfigDict(
    {
      'class_conditional': False,
      'image_size': 28,
      'data_dir': config_dict.placeholder(str),
    }
  )

  config.model.args.update(
    ch=64,
    emb_ch=256,
    ch_mult=(1, 2, 2),
    num_res_blocks=2,
    attn_resolutions=(7,),
    num_heads=1,
    dropout=0.1,
    dtype='bfloat16',
  )

  config.train.update(
    num_updates=40_000,
    batch_size=128,
    learning_rate=4e-4,
    learning_rate_warmup_steps=1000,
    ema_decay=0.9995,
    substeps=10,
  )
  config.eval.update(num_samples=10_000, features='classifier')
  return config
