"""Your own images at 64x64, from 1,024 sampling steps to 1.

python main.py --config=configs/folder_distill.py --workdir=runs/mine
  --config.dataset.args.path=FOLDER

It first trains the teacher of configs/folder_base.py, then ten rounds of 20,000
updates each, fewer than the paper's 50,000 to 100,000. More updates help most
in the last rounds. --mode=plan prints the cost of each round.
"""

from . import base, folder_base


def get_config():
  config = base.to_distill(folder_base.get_config())
  config.train.learning_rate = 1e-4
  config.distillation.steps_per_iter = 20_000
  return config
