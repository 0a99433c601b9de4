"""The commands and the Python of a page, run in order as a reader types them."""

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from scansynth.cli import main

ROOT = Path(__file__).parent.parent


def run_page(
    page: str, printed: dict[str, str], instead: Callable[[Sequence[str]], list[str]] = lambda arguments: []
) -> dict[str, str]:
    """Run what stands in a page's blocks of `sh` and `python`, in the current folder.

    Args:
        page: its path in the repository.
        printed: what commands of former pages printed; these are not run again. This page's are added.
        instead: flags to append to a command, as smaller sizes: the later of two counts.

    Returns:
        `printed`: by command, its standard output and the line that begins with Next.
    """
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S):
        if language == "python":
            exec(compile(block, page, "exec"), {})
            continue
        for command in block.splitlines():
            if not command.startswith("scansynth ") or command in printed:
                continue
            arguments = shlex.split(command)[1:]
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                assert main([*arguments, *instead(arguments)]) == 0, f"{page}: {command}\n{err.getvalue()}"
            told = [line for line in err.getvalue().splitlines() if line.startswith("Next")]
            printed[command] = "\n".join([*out.getvalue().splitlines(), *told])
    return printed
