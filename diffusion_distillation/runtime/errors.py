"""Exceptions that are shown to the user as one line."""


class UserError(Exception):
  """An error the user can fix, shown without a traceback."""


class DamagedError(UserError):
  """A file whose contents are not what was written."""


class DivergedError(UserError):
  """A training whose loss, gradients or weights are not finite."""
