"""Errors that are the user's to mend: printed as one message, without a traceback."""


class UserError(Exception):
    """Says what was given, what is wrong with it and what was expected, in complete sentences."""
