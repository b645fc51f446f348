"""The exceptions that a user is meant to read."""


class UserError(ValueError):
  """A run that cannot go on; its one line says why, and what to do."""


class DamagedError(UserError):
  """A checkpoint that cannot be read, or is not what was saved."""


class DivergedError(UserError):
  """A training whose loss, gradient or weights are not finite."""
