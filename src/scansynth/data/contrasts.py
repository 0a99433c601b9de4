"""Standard names of contrasts, the names that data sets and scanners give them, and what a file's name says."""

import re

from scansynth.errors import InputError, shown

STANDARD = ("T1w", "T2w", "PDw", "FLAIR", "T1ce", "CT")

_T1 = ("t1", "t1w", "t1wi", "t1weighted")
_AGENT = ("c", "cw", "ce", "cew", "gd", "gad", "gado", "gadolinium", "km", "post", "postgd", "postcontrast", "contrast",
          "enhanced", "+", "+c", "+gd")  # fmt: skip
_ALIASES = {
    **dict.fromkeys(_T1, "T1w"),
    **dict.fromkeys(("t1n", "t1native", "t1pre", "t1wpre", "t1precontrast", "3dt1", "3dt1w", "t1flair"), "T1w"),
    **dict.fromkeys(("mprage", "memprage", "t1mprage", "mpraget1", "mpraget1w", "t1wmprage", "3dmprage"), "T1w"),
    **dict.fromkeys(("mp2rage", "t1mp2rage", "unit1", "uni", "t1uni", "mp2rageuni"), "T1w"),
    **dict.fromkeys(("bravo", "t1bravo", "fspgr", "irfspgr", "t1fspgr", "t1tfe", "t1space", "t1cube"), "T1w"),
    **dict.fromkeys(("t2", "t2w", "t2wi", "t2weighted", "3dt2", "3dt2w"), "T2w"),
    **dict.fromkeys(("t2tse", "tset2", "t2fse", "fset2", "t2space", "spacet2", "t2cube", "cubet2"), "T2w"),
    **dict.fromkeys(("pd", "pdw", "pdwi", "pdweighted", "protondensity"), "PDw"),
    **dict.fromkeys(("flair", "t2f", "t2flair", "t2wflair", "flairt2", "3dflair", "t23dflair"), "FLAIR"),
    **dict.fromkeys(("flairspace", "spaceflair", "cubeflair", "darkfluid", "t2darkfluid"), "FLAIR"),
    **{f"{weighting}{agent}": "T1ce" for weighting in _T1 for agent in _AGENT},
    **{f"{agent}{weighting}": "T1ce" for weighting in _T1 for agent in ("ce", "gd", "gad", "post", "postcontrast")},
    **dict.fromkeys(("t2star", "t2starw", "t2*", "t2*w"), "T2starw"),
    "ct": "CT",
}
_AMBIGUOUS = {
    **dict.fromkeys(("space", "cube", "vista"), ("T1w", "T2w", "PDw", "FLAIR")),
    **dict.fromkeys(("tse", "fse"), ("T1w", "T2w", "PDw")),
    **dict.fromkeys(("pdt2", "t2pd", "pdt2w", "pdwt2w"), ("T2w", "PDw")),
    "flash": ("T1w", "PDw", "T2starw"),
    "vibe": ("T1w", "T1ce"),
}
"""Sequences that make several contrasts, and two contrasts in one file."""

_WORD = re.compile(r"[a-z0-9+*]+")
_JOINED = re.compile(r".*?(flair|mp2?rage)|(?:3d|2d|inplane|ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra)?(t[12])(?!\d)")
"""A weighting that other words are written onto (`axT2`, `sagT1w`); not `pat1`, `subject2`, `t10`."""
_MARKS = str.maketrans("", "", "-_ ")


def standard_name(name: str) -> str:
    """The standard name of a contrast (`t1n` → `T1w`); a name that no convention knows is kept as it stands.

    Raises:
        InputError: if several contrasts go by the name, it is empty, or it holds characters that cannot stand in a
            file name.
    """
    if known := known_name(name):
        return known
    if several := may_mean(name):
        raise InputError(f"contrast name {name!r} may be {', '.join(several[:-1])} or {several[-1]}: write which it is")
    check_letters(name)
    return name


def check_letters(name: str) -> None:
    """Raise InputError for a name of a contrast that cannot stand in a file name."""
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise InputError(f"contrast name {shown(name)}: use letters, digits, '-' and '_' only")


def known_name(name: str) -> str | None:
    """The standard name of a contrast that a convention knows, in any case (`T2-Flair`); None for another name."""
    return _ALIASES.get(_plain(name))


def may_mean(name: str) -> tuple[str, ...]:
    """The contrasts that go by an ambiguous name (`SPACE`); none for a clear or an unknown one."""
    return _AMBIGUOUS.get(_plain(name), ())


def contrasts_in(text: str) -> tuple[str, ...]:
    """The contrasts that a file may be whose name has these words; empty where they name none.

    Args:
        text: the name without the subject's, as `AX_T2_FLAIR_2`.
    """
    words = _WORD.findall(text.lower())
    found: set[str] = set()
    place = 0
    while place < len(words):
        # `T2` and `FLAIR` side by side are one name, so the longest one counts.
        for length in (3, 2, 1):
            name = "".join(words[place : place + length])
            if place + length <= len(words) and (name in _ALIASES or name in _AMBIGUOUS):
                found |= {_ALIASES[name]} if name in _ALIASES else set(_AMBIGUOUS[name])
                place += length
                break
        else:
            found |= _joined(words[place])
            place += 1
    if "T1w" in found and any(word in _AGENT[1:] for word in words):  # T1_axial_gd; a lone c says nothing
        found.add("T1ce")
    return (*(contrast for contrast in STANDARD if contrast in found), *sorted(found.difference(STANDARD)))


def _joined(word: str) -> set[str]:
    match = _JOINED.match(word)
    return {_ALIASES[match[1] or match[2]]} if match else set()


def _plain(name: str) -> str:
    return name.lower().translate(_MARKS)
