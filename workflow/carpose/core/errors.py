"""The one exception that is meant for users."""


class UserError(Exception):
    """Bad input or configuration: the message names the file, line or ImageId and says what to do.

    Every command line prints it alone, without a traceback, and exits with status 2.
    """
