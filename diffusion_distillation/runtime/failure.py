"""Why a training of a run failed, for the report: a file of its folder."""

from diffusion_distillation.runtime import files

_NAME = 'failure.txt'


def record(workdir, error):
  """Keeps why a training failed."""
  files.write_text(workdir / _NAME, f'{error}\n')


def forget(workdir):
  """Forgets why a training failed: it is tried again."""
  (workdir / _NAME).unlink(missing_ok=True)


def read(workdir):
  """Returns why a training failed, or None."""
  path = workdir / _NAME
  return path.read_text(errors='replace').strip() if path.exists() else None
