"""The one exception that means: the input is wrong, and the user can mend it."""


class UserError(ValueError):
    """Bad input: a config value, a path, a file or a checkpoint.

    The message names the key or file, the value and what to do. The command line prints it without a traceback and
    exits with code 2; everything else that is raised exits with code 1.
    """
