"""Your own images, distilled from 1024 sampling steps to 1.

python main.py --config=configs/folder_distill.py --workdir=runs/mine
  --config.dataset.args.path=FOLDER

Trains the teacher of configs/folder_base.py, then ten rounds of 20,000 updates,
fewer than the paper's 50,000 to 100,000. If there is time for more, give it to
the last rounds. `--mode=plan` prints the cost.
"""

from configs import base, folder_base


def get_config():
  config = base.to_distill(folder_base.get_config())
  config.train.learning_rate = 1e-4
  config.distillation.steps_per_iter = 20_000
  return config
