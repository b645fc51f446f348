"""A teacher of your own images, 64x64, unconditional.

python main.py --config=configs/folder_base.py --workdir=runs/mine_teacher
  --config.dataset.args.path=FOLDER

FOLDER is a folder or a zip of images of any size. A network of 57.1M parameters
with the settings that served the paper's larger data sets, for one GPU: if
memory runs out, halve `train.batch_size`. Some hundred thousand updates are
usual; a set of a few thousand images needs fewer, and dropout. For 32x32, set
`dataset.args.image_size` and drop the last level of `model.args.ch_mult`.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config():
  config = base.get_config()
  config.dataset.name = 'folder'
  config.dataset.args = ConfigDict(
    {
      # A folder, searched recursively, or a .zip file.
      'path': config_dict.placeholder(str),
      # Height and width that the central squares are resized to.
      'image_size': 64,
      # Whether labels are used; they are in dataset.json.
      'class_conditional': False,
      # Whether training flips images left to right, at random.
      'random_flip': True,
      # Part of the images that is never trained on.
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
