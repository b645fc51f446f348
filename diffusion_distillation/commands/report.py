"""--mode=report: writes the report of a finished run again."""

from diffusion_distillation.report.report import summary
from diffusion_distillation.report.run import report_run
from diffusion_distillation.runtime.run_folder import open_run_folder
from diffusion_distillation.training.config import check


def report(config, workdir):
  """Writes the report of a finished run from what was measured.

  Args:
    config: of the run.
    workdir: path of its folder.

  Raises:
    UserError: the folder holds no such run, or it is not finished.
  """
  dataset, _ = check(config)
  with open_run_folder(workdir, config, lock=False) as workdir:
    show(report_run(config, dataset, workdir), workdir)


def show(content, workdir):
  """Prints the summary of a report and where its page is."""
  print(f'{summary(content)}report: {workdir / "report" / "index.html"}')
