"""Names of subjects as tables and files write them: whom they mean, and whom they probably mean."""

import re
from collections.abc import Iterable, Sequence

# Sessions (BIDS) and time points (BraTS 2023) of one person.
_VISIT = re.compile(r"(?P<person>sub-[^_]+)_ses-.+|(?P<case>BraTS-[A-Za-z]+-\d+)-\d+", re.IGNORECASE)
NAMED = 5
"""Examples that a message gives at most."""


def person_of(name: str) -> str:
    """The person whose visit a subject entry is."""
    match = _VISIT.fullmatch(name)
    return (match["person"] or match["case"]) if match else name


def some_of(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")


class SubjectIds:
    """Which subjects an id means: a subject's name or a person's, in any case, with or without `sub-`."""

    def __init__(self, subjects: Iterable[str]):
        self.subjects: dict[str, list[str]] = {}
        """Name of a subject or a person, as the data spells it → the subjects that it stands for."""
        for subject in subjects:
            for name in dict.fromkeys((subject, person_of(subject))):
                self.subjects.setdefault(name, []).append(subject)
        self._names = {name.lower(): name for name in self.subjects}
        self._bare: dict[str, list[str]] = {}
        for name in self.subjects:
            self._bare.setdefault(bare(name), []).append(name)

    def find(self, written: str) -> str | None:
        """The name that is meant, as the data spells it; None for nobody's."""
        text = written.lower()
        choices = (self._names.get(name) for name in (text, f"sub-{text}", text.removeprefix("sub-")))
        return next(filter(None, choices), None)

    def probably(self, written: str) -> list[str]:
        """The names that differ in zeros alone, as a spreadsheet makes 1 of 001: to be named, never to be taken."""
        return self._bare.get(bare(written), [])

    def asked(self, written: str) -> str:
        """An id that nobody has, and who is probably meant, for a message."""
        meant = self.probably(written)
        return f"{written} ({' or '.join(meant[:2])} is probably meant)" if meant else written


def bare(name: str) -> str:
    """A name without what gets lost: `sub-`, case, zeros before numbers and `.0` after them."""
    text = re.sub(r"^sub[-_]?(?=.)", "", name.lower())
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(?<=\d)\.0$", "", text))
