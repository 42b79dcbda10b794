"""The one exception that is meant for users."""


class UserError(Exception):
    """Invalid input or configuration. The message names the file, line or ImageId and says what to do.

    Every command line prints only the message, without a traceback, and exits with status 2.
    """
