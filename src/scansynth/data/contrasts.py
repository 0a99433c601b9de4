"""Standard names of contrasts, and the names that data sets give them."""

from scansynth.errors import InputError

STANDARD = ("T1w", "T2w", "PDw", "FLAIR", "T1ce", "CT")

_ALIASES = {
    "t1w": "T1w", "t1": "T1w", "t1n": "T1w",
    "t2w": "T2w", "t2": "T2w",
    "pdw": "PDw", "pd": "PDw",
    "flair": "FLAIR", "t2f": "FLAIR", "t2flair": "FLAIR",
    "t1ce": "T1ce", "t1c": "T1ce", "t1gd": "T1ce", "t1cew": "T1ce",
    "ct": "CT",
}  # fmt: skip


def standard_name(name: str) -> str:
    """The standard name of a contrast (`t1n` → `T1w`); a name that no convention knows is kept as it stands.

    Raises:
        InputError: if the name is empty or holds characters that cannot stand in a file name.
    """
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise InputError(f"contrast name {name!r}: use letters, digits, '-' and '_' only")
    return _ALIASES.get(name.lower(), name)
