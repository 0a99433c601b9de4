"""What a kind of file is, and what the product must do with it, as data.

A kind's function writes one data set into an empty folder. Its docstring tells the symptom in our words and, after
`Found:`, the public thread that it was seen in.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from scansynth.data.cohort import Cohort

Check = Callable[["Cohort"], None]
"""Looks at the prepared cohort; raises `AssertionError` where it is wrong."""
Make = Callable[[Path], None]


@dataclass(frozen=True)
class Refused:
    """It cannot be right: `InputError`, whose text holds all words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """It goes on, and all words stand in what is said: warnings, files not taken, the census."""

    words: tuple[str, ...]
    check: Check | None = None
    """What must hold besides."""


@dataclass(frozen=True)
class Right:
    """It is understood, and the prepared cohort is as it should be."""

    check: Check
    quiet: bool = False
    """Nothing is odd here: not a single warning."""


Expect = Refused | Named | Right


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    name: str
    make: Make
    expect: Expect
    symptom: str
    """The function's docstring, without the link."""
    found: str
    """Link of the thread; empty where the kind comes from our own trials."""
    data: str = ""
    """What is given to the product, below the folder: a folder or a table; empty for the folder itself."""
    verb: Literal["prepare", "translate"] = "prepare"
    options: Mapping[str, Any] = field(default_factory=dict)
    """prepare: fields of `Preparation`, `fractions`, `tissue`. translate: `input` and `output` below the folder,
    `overwrite`."""


KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    expect: Expect,
    *,
    data: str = "",
    verb: Literal["prepare", "translate"] = "prepare",
    options: Mapping[str, Any] | None = None,
) -> Callable[[Make], Make]:
    """Register a maker under a name."""

    def register(make: Make) -> Make:
        symptom, _, link = " ".join((make.__doc__ or "").split()).partition("Found: ")
        assert symptom, f"{name} has no docstring"
        assert not link or re.fullmatch(r"https://github\.com/[\w./-]+/(issues|pull)/\d+", link), f"{name}: {link}"
        assert name not in KINDS, f"two kinds are called {name}"
        KINDS[name] = Kind(name, make, expect, symptom.strip(), link, data, verb, options or {})
        return make

    return register


def refused(*words: str) -> Refused:
    """Must be refused with these words (`missing_words` says how they are compared)."""
    return Refused(words)


def named(*words: str, check: Check | None = None) -> Named:
    """Must go on and be named with these words."""
    return Named(words, check)


def right(check: Check, *, quiet: bool = False) -> Right:
    """Must be understood."""
    return Right(check, quiet)


def missing_words(words: tuple[str, ...], text: str) -> list[str]:
    """Those that a text does not hold, in any case; `a|b` asks for one of them."""
    text = text.lower()
    return [word for word in words if not any(choice in text for choice in word.lower().split("|"))]
