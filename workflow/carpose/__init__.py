"""carpose: from photos and train.csv to the 6-DoF pose of every vehicle, and to submission.csv."""

__version__ = "0.1.0"


class UserError(Exception):
    """Bad input or configuration: the message names the file, line or ImageId and says what to do.

    Every command line prints it alone, without a traceback, and exits with status 2.
    """
