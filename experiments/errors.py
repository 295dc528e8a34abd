"""Errors of the user, which are printed as one message, without a traceback."""


class UserError(Exception):
    """A message in complete sentences: what was given, what is wrong, and what is expected."""
