"""`eval.seeds`: a run is repeated with other seeds, for the spread of figures.

The folder then holds a run for each seed, and a report of their means.
"""

import copy
import pathlib

from diffusion_distillation.report import run as runs
from diffusion_distillation.report import seeds
from diffusion_distillation.report.report import show, write_report
from diffusion_distillation.runtime import run_folder
from diffusion_distillation.runtime.errors import UserError
from diffusion_distillation.training.config import check


def each(config, workdir):
  """Returns the configs and folders of all seeds, as a list of pairs.

  Args:
    config: config of a run. Its own seed comes first.
    workdir: path of the folder; with a single seed, that of its run.

  Raises:
    UserError: eval.seeds is below 1; or above 1, and the folder holds a run of
      one seed.
  """
  if type(config.eval.seeds) is not int or config.eval.seeds < 1:
    raise UserError(
      'config: eval.seeds must be an integer of at least 1, got '
      f'{config.eval.seeds!r}'
    )
  if config.eval.seeds == 1:
    return [(config, workdir)]
  if run_folder.read_run(workdir) is not None:
    raise UserError(
      f'{workdir} holds a run of one seed; choose another --workdir for '
      f'eval.seeds={config.eval.seeds}'
    )
  found = []
  for seed in range(config.seed, config.seed + config.eval.seeds):
    of_seed = copy.deepcopy(config)
    of_seed.seed, of_seed.eval.seeds = seed, 1
    found.append((of_seed, pathlib.Path(workdir) / f'seed_{seed}'))
  return found


def write_means(config, workdir, protocols):
  """Writes the report of the means, if there are several seeds.

  Samples and curves of training are those of the first seed.

  Args:
    config: config of the runs, which are finished.
    workdir: path of their folder.
    protocols: how each run was measured; None takes that of its newest figures.

  Raises:
    UserError: the runs were measured in different ways.
  """
  if config.eval.seeds == 1:
    return
  found = []
  for (of_seed, folder), protocol in zip(
    each(config, workdir), protocols, strict=True
  ):
    with run_folder.open_run_folder(folder, of_seed, lock=False) as path:
      found.append(runs.collect(of_seed, check(of_seed)[0], path, protocol))
  try:
    content = seeds.merge([content for content, _ in found])
  except ValueError as error:
    raise UserError(
      f'the runs in {workdir} have no common report: {error}; --mode=evaluate '
      'measures all of them as the config says'
    ) from error
  workdir = pathlib.Path(workdir).absolute()
  write_report(content, workdir / 'report', **found[0][1])
  show(content, workdir)
