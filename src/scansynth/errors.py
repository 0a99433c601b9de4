"""The error that a user can mend."""


class InputError(ValueError):
    """Wrong input: the message is one line that says what is wrong, in which file, and what to do.

    The command line prints the message without a traceback and exits with code 1. Anything else that is
    raised is a mistake of the program and keeps its traceback.
    """


class ToldElsewhereError(InputError):
    """An `InputError` that all processes of a command have and only the first one prints."""
