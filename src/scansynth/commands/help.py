"""Help that fits a screen: what a verb does, an example, and the options that are needed most; `--help-all` tells all.

Texts, placeholders and what is required are the parser's own. Here stands only which options are told first.
"""

import re
import shutil
import textwrap
import typing
import warnings
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from rich.cells import cell_len

from scansynth.commands.console import out

LINES, COLUMNS = 24, 100
"""A screen. Where a terminal has fewer columns, lines are shorter."""
ALL = "--help-all"
LAST = f"{ALL} tells every option."
REQUIRED = " (required)"


@dataclass(frozen=True)
class First:
    """What the short help of a verb tells."""

    example: str
    """What may follow the command, given such files."""
    options: tuple[str, ...]
    """Flags, and arguments without a flag by their names; required ones first."""


FIRST: Mapping[str, First] = {
    "demo": First("-o demo", ("--output", "--data", "--contrasts", "--minutes", "--device")),
    "run": First(
        "-i DATA -o out --target T2w --hours 8",
        ("--input", "--output", "--target", "--hours", "--pattern", "--dry-run", "--skip-bad", "--accept", "--device"),
    ),
    "methods": First("--recipes syndiff", ("--recipes", "--json")),
    "prepare": First(
        "-i DATA -o cohort",
        (
            "--input", "--output", "--contrasts", "--spacing", "--size", "--raw", "--recipe", "--like", "--pattern",
            "--dry-run", "--skip-bad", "--accept",
        ),
    ),
    "plan": First("cohort --target T2w --hours 8", ("cohort", "--target", "--hours", "--output")),
    "train": First(
        "syndiff --cohort cohort --run runs/syndiff",
        ("recipe", "--cohort", "--run", "--first-stage", "--init", "--device", "--devices", "--overwrite"),
    ),
    "train RECIPE": First(
        "--cohort cohort --run runs/first",
        (
            "--cohort", "--run", "--contrasts", "--training.steps", "--training.minutes", "--training.batch-size",
            "--first-stage", "--init", "--device", "--devices", "--seed", "--overwrite",
        ),
    ),
    "distill": First(
        "runs/ddpm --cohort cohort --run runs/ddpm-in-2 --steps 2",
        (
            "run-folder", "--cohort", "--run", "--steps", "--training.steps", "--training.minutes", "--device",
            "--devices", "--overwrite",
        ),
    ),
    "calibrate": First(
        "--run runs/syndiff --cohort cohort",
        ("--run", "--cohort", "--samples", "--mean", "--device"),
    ),
    "translate": First(
        "--run runs/syndiff --t1w t1.nii.gz -o t2.nii.gz",
        (
            "--run", "--output", "--t1w", "--t2w", "--flair", "--source", "--input", "--missing", "--target",
            "--samples", "--mean", "--raw", "--device", "--overwrite",
        ),
    ),
    "generate": First(
        "--run runs/cdpm -n 10 -o generated/cdpm",
        ("--run", "--number", "--output", "--label", "--plan", "--device", "--seed"),
    ),
    "evaluate": First(
        "--run runs/syndiff --cohort cohort -o evaluation/syndiff",
        (
            "--run", "--cohort", "--output", "--split", "--target", "--protocol", "--samples", "--mean", "--dice",
            "--keep", "--device",
        ),
    ),
    "evaluate --spread": First(
        "synthesis.nii.gz truth.nii.gz", ("synthesis", "truth"),
    ),
    "compare": First(
        "--run runs/a runs/b --cohort cohort -o comparison",
        ("--run", "--cohort", "--output", "--split", "--target", "--protocol", "--reference", "--keep", "--device"),
    ),
    "benchmark": First(
        "cohort --minutes 30 --target T2w -o benchmark",
        (
            "cohort", "--output", "--minutes", "--target", "--source", "--methods", "--seeds", "--samples",
            "--defaults", "--device", "--dry-run",
        ),
    ),
    "measure": First(
        "--set generated/cdpm --cohort cohort -o measured/cdpm",
        ("--set", "--cohort", "--output", "--contrast", "--external", "--extractor", "--memorisation"),
    ),
    "reproduce": First(
        "syndiff-table2 --data DATA --dry-run",
        ("name", "--list", "--data", "--dry-run", "--small", "--output", "--device"),
    ),
    "inspect": First("runs/syndiff", ("run-folder", "--json")),
    "export": First(
        "runs/syndiff -o syndiff.zip --evaluation evaluation/syndiff",
        (
            "run-folder", "--output", "--name", "--data", "--data-licence", "--licence", "--limits", "--evaluation",
            "--cohort",
        ),
    ),
    "app": First("DATA", ("folder", "--port")),
    "runs": First("runs", ("folder", "--json")),
    "completion": First("bash > ~/.local/share/bash-completion/completions/scansynth", ("shell",)),
    "scansynth-bids": First(
        "BIDS OUT participant --participant-label 01 02 --run runs/syndiff",
        (
            "bids-dir", "output-dir", "analysis-level", "--run", "--participant-label", "--target", "--samples",
            "--mean", "--device",
        ),
    ),
}  # fmt: skip
"""What is told first, by command; `train` once a recipe is named has options of its own."""


def parse(key: str, kind: Any, arguments: Sequence[str], prog: str, **given: Any) -> Any:
    """The command that arguments stand for, as `tyro.cli` has it; a wish for help is met, and ends the program.

    Args:
        key: of the command in `FIRST`.
        kind: its dataclass.
        arguments: what follows its name.
        prog: how it is called.
        given: `default`, as of `tyro.cli`.

    Raises:
        SystemExit: after the help (0), and where the arguments are wrong (2).
    """
    if ALL in arguments:
        arguments = ["--help"]
    elif {"-h", "--help"} & set(arguments):
        width = min(COLUMNS, shutil.get_terminal_size((COLUMNS, LINES)).columns)
        for line in short_help(FIRST[key], kind, prog, width, **given):
            out.print(line, markup=False)
        raise SystemExit(0)
    return tyro.cli(kind, args=list(arguments), prog=prog, **given)


def actions_of(kind: Any, **given: Any) -> dict[str, Action]:
    """A command's options and arguments by name (`name_of`), as argparse has them; the wish for help is none.

    Args:
        kind: the command's dataclass.
        given: `default`, as of `tyro.cli`.
    """
    with warnings.catch_warnings():
        # tyro means to drop argparse's parsers; nothing else that it has lists options.
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(kind, **given)
    return {name_of(action): action for action in parser._actions if action.dest != "help"}


def flags_of(action: Action) -> list[str]:
    """An option's flags, short ones first; of a switch that is on, `--no-…` as well. None for an argument."""
    off = [flag for flag in action.option_strings if action.nargs == 0 and flag.startswith("--no-")]
    return sorted((flag for flag in action.option_strings if flag not in off or action.default), key=len)


def name_of(action: Action) -> str:
    """An option's long flag, not that which switches it off, or an argument's name."""
    on = [flag for flag in flags_of(action) if not (action.nargs == 0 and flag.startswith("--no-"))]
    return on[-1] if on else action.dest


def value_of(action: Action) -> str:
    """What stands for an option's value or for an argument: PATH, {auto,last,best}; empty for a switch."""
    if action.nargs == 0:
        return ""
    text = str(action.metavar).replace("{None}|", "")
    if not action.option_strings and text.strip("[]") in ("PATH", "STR"):
        return action.dest.upper()
    text = re.sub(r"\[(\S+) \[\1 \.\.\.\]\]", r"\1 …", text)
    return re.sub(r"^\{([^,]*)\}$", r"\1", text)  # a choice of one, or of None and one


def sentence_of(action: Action) -> tuple[str, str]:
    """The first sentence of an option's help, and its default in words (empty where that says nothing)."""
    text = " ".join((action.help or "").replace("%%", "%").split())
    if added := re.search(r" \((?:default: (.*)|required|repeatable)\)$", text):
        text = text[: added.start()]
    first = re.match(r".*?\.(?=\s|$)", text)
    default = added[1] if added else None
    return (first[0] if first else text), ("" if default in (None, "None", "False", "''") else default)


def short_help(first: First, kind: Any, prog: str, width: int = COLUMNS, **given: Any) -> Iterator[str]:
    """Lines of at most `width` columns, `LINES` at most where that is `COLUMNS` (arguments as of `parse`)."""
    found = actions_of(kind, **given)
    shown = {name: found[name] for name in first.options}
    sentence = ((typing.get_origin(kind) or kind).__doc__ or "").split("\n\n")[0]
    yield from textwrap.wrap(" ".join(sentence.split()), width)
    needed = [" ".join([*flags_of(one)[:1], value_of(one)]) for one in shown.values() if one.required]
    yield from ("", *textwrap.wrap(" ".join(["usage:", prog, *needed, "[OPTIONS]"]), width, subsequent_indent="  "))
    yield from ("", cut(f"example: {prog} {first.example}", width), "")
    left = {name: " ".join([", ".join(flags_of(one)), value_of(one)]).strip() for name, one in shown.items()}
    room = max(map(cell_len, left.values()))
    for name, action in shown.items():
        sentence, default = sentence_of(action)
        line = f"  {left[name]}{' ' * (room - cell_len(left[name]))}  {sentence}"
        if action.required:
            yield f"{cut(line, width - len(REQUIRED))}{REQUIRED}"
        else:
            note = f" (default: {default})" if default else ""
            yield line + note if cell_len(line + note) <= width else cut(line, width)
    yield from ("", LAST)


def cut(line: str, width: int) -> str:
    """A line of at most so many columns: words are left out at its end."""
    while cell_len(line) > width:
        line = line.removesuffix(" …").rpartition(" ")[0].rstrip(" ,:;(") + " …"
    return line
