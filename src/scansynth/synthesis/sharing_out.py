"""Several commands, on machines that see one folder, make what is left to make: each image once."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from scansynth.claims import Claims
from scansynth.errors import InputError

Work = TypeVar("Work")

FOLDER = ".claims"
"""In the folder of images: what each command is at work on."""
PAUSE = 2.0
"""Seconds between two looks at what others are at work on."""


def check_shared(*, shared: bool, overwrite: bool) -> None:
    """Raise InputError for wishes that exclude each other."""
    if shared and overwrite:
        raise InputError("--shared with --overwrite: each command would make again what the others have made")


def shared_out(
    out: Path, work: Sequence[Work], *, name: Callable[[Work], str], there: Callable[[Work], bool], first: int = 0
) -> Iterator[Work]:
    """What of the work is this command's, piece by piece, until all of it is done, by whomever.

    A piece that is yielded is claimed until the next one is asked for. What another command has claimed is waited for,
    and taken over where that has died. A piece that was yielded once is not tried again, whether
    it is there or was refused.

    Args:
        out: the folder of images, whose claims lie in a folder of their own.
        work: what is to be made; all commands know all of it.
        name: of a piece, of letters that a file's name may have.
        there: whether a piece is made.
        first: which piece to look at first, so that commands do not all begin with the same.
    """
    claims, waiting = Claims(out / FOLDER), [*work[first % max(len(work), 1) :], *work[: first % max(len(work), 1)]]
    while waiting:
        others = []
        for one in waiting:
            with claims.claimed(name(one)) as own:
                if not own:
                    others.append(one)
                elif not there(one):
                    yield one
        waiting = [one for one in others if not there(one)]
        if waiting:
            time.sleep(PAUSE)
    with suppress(OSError):  # of others there may be some left
        (out / FOLDER).rmdir()
