"""Teacher of Fashion-MNIST averaged to 14x14, for studies, 0.2M parameters.

python main.py --config=configs/fashion_mnist14_base.py --workdir=runs/teacher14

Hardware: 2 CPU cores (AMD EPYC, JAX 0.10.2), with other work on them.
Time: 11 minutes.
Expect: a Frechet distance of 4.8 with 64 DDIM steps.
"""

from . import fashion_mnist_small_base


def get_config():
  config = fashion_mnist_small_base.get_config()
  config.dataset.args.image_size = 14
  config.model.args.update(ch=16, emb_ch=64, ch_mult=(1, 2))
  config.model.eval_sampling_num_steps = 64
  config.train.update(num_updates=5000, checkpoint_every_secs=120)
  config.eval.num_samples = 2000
  return config
