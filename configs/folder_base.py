"""A teacher for your own images, 64x64, unconditional.

python main.py --config=configs/folder_base.py --workdir=runs/mine_teacher
  --config.dataset.args.path=FOLDER

FOLDER is a folder, which is searched recursively, or a zip, with images of any
size. The network has 57.1M parameters, with the paper's settings for its larger
data sets, and is meant for one GPU: if memory runs out, halve
`train.batch_size`. A few hundred thousand updates are usual; a few thousand
images need fewer updates and more dropout. For 32x32, set
`dataset.args.image_size` and remove the last level of `model.args.ch_mult`.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config():
  config = base.get_config()
  config.dataset.name = 'folder'
  config.dataset.args = ConfigDict(
    {
      # A folder, which is searched recursively, or a .zip file.
      'path': config_dict.placeholder(str),
      # Height and width that the central squares are resized to.
      'image_size': 64,
      # 3: grey images become RGB; 1: colour images become grey.
      'channels': 3,
      # Whether the classes in dataset.json are used.
      'class_conditional': False,
      # Number of classes; absent: the largest label in dataset.json plus one.
      'num_classes': config_dict.placeholder(int),
      # Whether training flips half of the images left to right.
      'random_flip': True,
      # Part of the images that is held out of training.
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
