"""What the verbs share: where they print, progress bars, and the flags -i and -o."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tyro.conf import arg

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Input = Annotated[Path, arg(aliases=["-i"])]
Output = Annotated[Path, arg(aliases=["-o"])]


@contextmanager
def bars(show: bool = True) -> Iterator[Any]:
    """Progress bars: a function (text, done, in all) that draws and moves one bar a text.

    Where the output is no terminal (a log file), a line a text is written when it begins. Of several processes only
    the first one shows them.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=not (show and err.is_terminal)) as progress:
        tasks: dict[str, Any] = {}

        def move(text: str, done: int, total: int, note: str = "") -> None:
            if text not in tasks:
                tasks[text] = progress.add_task(text)
                if show and not err.is_terminal:
                    err.print(f"{text} ({total})", markup=False)
            progress.update(tasks[text], completed=done, total=total, description=f"{text} {note}".strip())

        yield move
