"""--mode=report: writes the report of a finished run again."""

import contextlib
import copy

from diffusion_distillation.checkpoints import read_card
from diffusion_distillation.commands import seeds
from diffusion_distillation.commands.inputs import check_rounds
from diffusion_distillation.report.report import show
from diffusion_distillation.report.run import report_run
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.runtime.run_folder import open_run_folder, read_run
from diffusion_distillation.training.config import check


def report(config, workdir):
  """Writes the report of a finished run from what was measured.

  Args:
    config: config of the run.
    workdir: path of the run folder.

  Raises:
    UserError: the folder holds no such run, or it is not finished.
  """
  for of_seed, folder in seeds.each(config, workdir):
    with open_run_folder(folder, of_seed, lock=False) as path:
      dataset, _ = check(_with_classes(of_seed, path))
      check_rounds(of_seed, path)
      show(report_run(of_seed, dataset, path), path)
  seeds.write_means(config, workdir, [None] * config.eval.seeds)


def _with_classes(config, workdir):
  """Returns a config that has the number of classes.

  Where the config leaves this number to the labels, it comes from the cards of
  the run, since the labels may be gone.
  """
  args = config.dataset.args
  counted = 'num_classes' in args and args.num_classes is None
  if not counted or not args.get('class_conditional'):
    return config
  config = copy.deepcopy(config)
  for each in read_run(workdir)['rounds']:
    with contextlib.suppress(UserError):  # a failed run lacks some rounds
      card = read_card(workdir / each['name'])
      config.dataset.args.num_classes = card.num_classes
  return config
