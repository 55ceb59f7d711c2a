"""What is told apart: bad input, a sample that cannot be read, and a run that a signal stopped."""


class UserError(ValueError):
    """Bad input: a config value, a path, a file or a checkpoint.

    The message names the key or file, the value and what to do. The command line prints it without a traceback and
    exits with code 2; everything else that is raised exits with code 1.
    """


class BrokenSample(Exception):
    """One sample cannot be read or decoded; the message is the reason. It is skipped and counted."""


class Interrupted(BaseException):
    """A signal stopped the run, and its checkpoint is written. The message says how to continue.

    Args:
        message: For the user.
        signal_number: Of the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
