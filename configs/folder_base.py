"""Teacher of your own images at 64x64, unconditional, 57.1M parameters.

python main.py --config=configs/folder_base.py --workdir=runs/mine_teacher
  --config.dataset.args.path=FOLDER

FOLDER is a folder or a zip of images of any size. The settings follow
those of the paper's larger data sets. A few hundred thousand updates are usual;
a set of a few thousand images needs fewer updates and more dropout.

- If GPU memory runs out, set train.accumulate=2 or halve train.batch_size.
- For 32x32 images, set dataset.args.image_size=32 and
  model.args.ch_mult=(1,2,2).
"""

from ml_collections import ConfigDict, config_dict

from . import base


def get_config():
  config = base.get_config()
  config.dataset.name = 'folder'
  config.dataset.args = ConfigDict(
    {
      # Folder of images, searched recursively, or a .zip file; required.
      'path': config_dict.placeholder(str),
      # Height and width; images are cropped to a square and resized.
      'image_size': 64,
      # 3: grey images become RGB; 1: colour images become grey.
      'channels': 3,
      # Whether to use the labels of the dataset.json beside the images.
      'class_conditional': False,
      # Number of classes; None takes the largest label plus one.
      'num_classes': config_dict.placeholder(int),
      # Whether training flips images left to right at random.
      'random_flip': True,
      # Fraction of the images that is held out from training.
      'heldout_fraction': 0.02,
    }
  )

  config.model.args.update(
    ch=128,
    emb_ch=512,
    ch_mult=(1, 2, 2, 2),
    num_res_blocks=3,
    attn_resolutions=(16, 8),
    head_dim=64,
    dropout=0.1,
  )

  config.train.update(
    num_updates=200_000,
    batch_size=128,
    learning_rate=2e-4,
    learning_rate_warmup_steps=1000,
  )
  return config
