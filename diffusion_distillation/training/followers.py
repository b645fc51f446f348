"""What the processes beside 0 have in place of a run's files: nothing."""


class NoLog:
  """Stands for a RunLog."""

  def rewind(self, stage, step):
    """Forgets nothing."""

  def write(self, stage, step, metrics):
    """Writes nothing."""

  def close(self):
    """Closes nothing."""


class NoCheckpoints:
  """Stands for a CheckpointFolder."""

  def restore(self, template, num_updates):
    """Returns None: process 0 tells what it has found."""

  def newest(self):
    """Returns where to look for the newest."""
    return "process 0's"
