"""The one exception that a user is meant to read."""


class UserError(ValueError):
  """A run that cannot go on; its one line says why, and what to do."""
