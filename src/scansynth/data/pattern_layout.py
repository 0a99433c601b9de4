"""A layout that the user states: where of a file's path its subject and its contrast stand."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from scansynth.data.contrasts import known_name
from scansynth.data.folder_layouts import Found
from scansynth.data.image_files import Folder
from scansynth.data.subject import MASKS, add_file, is_synthetic, make_subject, stem_of
from scansynth.errors import InputError, shown

FIELDS = ("subject", "session", "contrast")
EXAMPLE = "{subject}/{contrast}.nii.gz"

Tokens = Sequence[tuple[str, str]]
"""(`text`, …), (`field`, its name) or (`any`, "")."""


def by_pattern(root: Folder, pattern: str) -> Found:
    """Subjects whose files' paths, from the data folder on, have a form.

    `{subject}`, `{contrast}` and, if there are visits, `{session}` stand for text without a slash, `*` for any; a field
    that stands twice must say the same twice. The ending may be that of any format that is read. What a contrast may be
    called is known (`contrasts.py`); of several readings that with the longest name of a contrast counts.

    Raises:
        InputError: for a pattern without subject or contrast, a path that can be read in two ways, or two files that
            are one subject's same contrast.
    """
    tokens = parse(pattern)
    scans: dict[str, dict[str, Path]] = {}
    masks: dict[str, dict[str, Path]] = {}
    for folder in root.all():
        for file in folder.images():
            if is_synthetic(file):
                continue
            if read := _read(tokens, file.relative_to(root.path).as_posix(), pattern):
                name, kind = read
                of = masks if kind in MASKS else scans
                add_file(of.setdefault(name, {}), kind, file)
    return Found([make_subject(name, own, masks.get(name)) for name, own in scans.items()])


def parse(pattern: str) -> Tokens:
    """The parts of a pattern.

    Raises:
        InputError: if it cannot be one.
    """
    tokens = []
    for part in re.split(r"(\{[^{}]*\}|\*)", stem_of(pattern)):
        if part == "*":
            tokens.append(("any", ""))
        elif part.startswith("{"):
            tokens.append(("field", part[1:-1]))
        elif part:
            tokens.append(("text", part))
    names = [name for kind, name in tokens if kind == "field"]
    if odd := [name for name in names if name not in FIELDS]:
        raise InputError(f"--pattern {shown(pattern)}: {{{odd[0]}}} is not known; there are {', '.join(FIELDS)}")
    if not {"subject", "contrast"} <= set(names):
        raise InputError(f"--pattern {shown(pattern)}: write where subject and contrast stand, as '{EXAMPLE}'")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise InputError(f"--pattern {shown(pattern)}: write it from the data folder on, as '{EXAMPLE}'")
    return tokens


def _read(tokens: Tokens, path: str, pattern: str) -> tuple[str, str] | None:
    """Name of the subject entry, and standard contrast or mask; None for a path that is not of the form."""
    readings: dict[tuple[str, str], int] = {}
    for fields in _matches(tokens, stem_of(path), {}):
        word = fields["contrast"]
        kind = word.lower() if word.lower() in MASKS else known_name(word)
        if kind:
            name = fields["subject"]
            if session := fields.get("session"):
                name += f"_{session if session.lower().startswith('ses-') else f'ses-{session}'}"
            readings[name, kind] = max(len(word), readings.get((name, kind), 0))
    longest = [reading for reading, length in readings.items() if length == max(readings.values())]
    if len(longest) > 1:
        ways = " or ".join(f"{kind} of {name}" for name, kind in longest[:2])
        raise InputError(f"--pattern {shown(pattern)}: {path} may be {ways}: write more of the path into the pattern")
    return longest[0] if longest else None


def _matches(tokens: Tokens, text: str, known: dict[str, str]) -> Iterator[dict[str, str]]:
    """All ways to read a text; case counts only in fields."""
    if not tokens:
        if not text:
            yield known
        return
    (kind, value), *rest = tokens
    if kind == "text":
        if text[: len(value)].lower() == value.lower():
            yield from _matches(rest, text[len(value) :], known)
        return
    if value in known:
        yield from _matches([("text", known[value]), *rest], text, known)
        return
    room = text.partition("/")[0]
    for length in range(0 if kind == "any" else 1, len(room) + 1):
        found = known if kind == "any" else {**known, value: text[:length]}
        yield from _matches(rest, text[length:], found)
