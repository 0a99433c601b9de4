"""What ends a command without being a fault of the program: input that a user can mend, and a wish to stop."""

import reprlib
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """Wrong input: the message is one line that says what is wrong, in which file, and what to do.

    The command line prints the message without a traceback and exits with code 1. Anything else that is
    raised is a mistake of the program and keeps its traceback. Of a message without end, as of a file that holds one,
    the middle is left out.
    """

    def __init__(self, message: str):
        long = len(message) > MOST_SAID
        super().__init__(f"{message[: MOST_SAID - 400]} […] {message[-390:]}" if long else message)


class InUseError(InputError):
    """Another command is at work on what this one wants; later it may be free."""


class ToldElsewhereError(InputError):
    """An `InputError` that all processes of a command have and only the first one prints."""


class StoppedError(Exception):
    """A training was asked to stop, and has saved where it was.

    Args:
        by: number of the signal; 0 where another process was asked.
        step: training steps finished and saved.
        steps: training steps in all.
        run: its folder.
    """

    def __init__(self, by: int, step: int, steps: int, run: str):
        name = signal.Signals(by).name if by else "a signal to another process"
        super().__init__(
            f"{run}: stopped by {name} at step {step} of {steps}, saved; the same command goes on from there"
        )
        self.by = by


@contextmanager
def located(where: object) -> Iterator[None]:
    """Around what is made of a file: an `InputError` that does not say where, says it."""
    try:
        yield
    except InputError as error:
        if str(where) in str(error):
            raise
        raise InputError(f"{where}: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names what is nearly written so, for a message; nothing where nothing is."""
    close = get_close_matches(name, list(known), n=3)
    return f"did you mean {', '.join(close)}? " if close else ""


NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "could not create a memory")
"""What PyTorch says on a CPU where there is none; the last two are oneDNN's, which tells no reason."""


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that there was no memory left."""
    told = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in told for words in NO_MEMORY)
    )


class _Short(reprlib.Repr):
    """A representation that costs little, however large, deep or often repeated the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = MOST_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        """A number, or how long it is: Python writes none of more than 4300 digits."""
        return repr(x) if x.bit_length() < 200 else f"a number of some {round(x.bit_length() * 0.30103)} digits"


MOST_SAID = 2000
"""Characters of a message."""
MOST_SHOWN = 80
"""Characters of a value in a message."""
MOST_TOLD = 240
"""Characters of what another library says."""


def why(error: BaseException) -> str:
    """Kind and words of an error that is none of ours, for a message: one line, of some length at most."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MOST_TOLD else f"{text[: MOST_TOLD - 1]}…"


def shown(value: object) -> str:
    """A user's value as a message names it: one line of at most `MOST_SHOWN` characters, whatever it holds."""
    text = _Short().repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
