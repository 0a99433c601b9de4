"""The error that a user can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Wrong input: the message is one line that says what is wrong, in which file, and what to do.

    The command line prints the message without a traceback and exits with code 1. Anything else that is
    raised is a mistake of the program and keeps its traceback.
    """


class ToldElsewhereError(InputError):
    """An `InputError` that all processes of a command have and only the first one prints."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names what is nearly written so, for a message; nothing where nothing is."""
    close = get_close_matches(name, list(known), n=3)
    return f"did you mean {', '.join(close)}? " if close else ""
