"""What training refuses, in words for whoever gave the command.

ValueError
DataError        the data set, or a run made of it, cannot be used: status 1
OptionError    an option of the command line cannot be: status 2
"""


class DataError(ValueError):
    """The data set cannot be used as it is; the message says what to change."""


class OptionError(DataError):
    """An option of the command line cannot be, or not with the others; the message names it."""
