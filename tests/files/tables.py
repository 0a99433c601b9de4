"""Tables and splits: who is who, and who trains."""

import json
from pathlib import Path

from .checks import every, everyone_follows, labels_stand, splits_stand
from .heads import PEOPLE, SPLITS, bids, bids_path, brats, case, nifti, participants, person, voxels, write
from .registry import kind, named, refused, right

_STANDS = right(every(splits_stand, labels_stand))


def _state(folder: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a healthy cohort with this `participants.tsv`."""
    bids(folder)
    (folder / "participants.tsv").write_bytes(text.encode(encoding))


@kind("byte-order-mark", _STANDS)
def byte_order_mark(folder: Path) -> None:
    """A spreadsheet put a byte order mark before the first column's name, which is then no longer `participant_id`.

    Found: https://github.com/aces/Loris-MRI/pull/610
    """
    _state(folder, participants(), "utf-8-sig")


@kind("carriage-returns", _STANDS)
def carriage_returns(folder: Path) -> None:
    """Lines end with a carriage return alone, so that the table is one line.

    Found: https://github.com/bids-standard/legacy-validator/issues/1901
    """
    _state(folder, participants().replace("\n", "\r"))


@kind("windows-lines", _STANDS)
def windows_lines(folder: Path) -> None:
    """Lines end as on Windows, and there are empty ones at the end."""
    _state(folder, participants().replace("\n", "\r\n") + "\r\n\r\n")


@kind("utf-16", refused("participants.tsv"))
def utf_16(folder: Path) -> None:
    """A spreadsheet saved the table as "Unicode text", which is UTF-16: the stated split may not be overlooked."""
    _state(folder, participants(), "utf-16")


@kind("semicolons", refused("participants.tsv"))
def semicolons(folder: Path) -> None:
    """The table's separators are semicolons: the stated split may not be overlooked."""
    _state(folder, participants().replace("\t", ";"))


@kind("spaces-for-a-tab", refused("participants.tsv", "line 3"))
def spaces_for_a_tab(folder: Path) -> None:
    """One line has two spaces where a tab should be.

    Found: https://github.com/bids-standard/bids-examples/pull/43
    """
    _state(folder, participants().replace("sub-02\t", "sub-02  "))


@kind("bare-ids", _STANDS)
def bare_ids(folder: Path) -> None:
    """The table says `01` where the folder says `sub-01`.

    Found: https://github.com/bids-standard/bids-specification/issues/737
    """
    _state(folder, participants({number: f"{number:02d}" for number in range(1, PEOPLE + 1)}))


@kind("lost-zeros", refused("participants.tsv", "sub-01"))
def lost_zeros(folder: Path) -> None:
    """Leading zeros were lost in the table, `sub-1` for `sub-01`: the split may not be overlooked.

    Found: https://github.com/bids-standard/legacy-validator/issues/1674
    """
    _state(folder, participants({number: f"sub-{number}" for number in range(1, PEOPLE + 1)}))


@kind("numbers", refused("participants.tsv", "sub-01"))
def numbers(folder: Path) -> None:
    """The table's ids are plain numbers, and every label is lost in silence where the comparison is strict.

    Found: https://github.com/incf-nidash/PyNIDM/pull/441
    """
    text = participants({number: str(number) for number in range(1, PEOPLE + 1)})
    _state(folder, "".join(line.rpartition("\t")[0] + "\n" for line in text.splitlines()))


@kind("header-in-capitals", _STANDS)
def header_in_capitals(folder: Path) -> None:
    """The columns are called `Participant_ID` and `Split`."""
    _state(folder, participants(columns="Participant_ID age sex Split"))


@kind("other-ids", refused("participants.tsv"))
def other_ids(folder: Path) -> None:
    """Not one id of the table is the name of a folder; that both are in one order cannot be known.

    Found: https://github.com/bids-standard/legacy-validator/issues/1901
    """
    _state(folder, participants({number: f"sid{7 * number:06d}" for number in range(1, PEOPLE + 1)}))


@kind("one-id-misspelt", refused("sub-02"))
def one_id_misspelt(folder: Path) -> None:
    """One row has a letter for a digit: that subject is without a split."""
    _state(folder, participants({2: "sub-o2"}))


@kind("more-rows", _STANDS)
def more_rows(folder: Path) -> None:
    """The table knows people who were not scanned."""
    _state(folder, participants() + "sub-07\t40\tF\ttrain\n")


@kind("row-twice", _STANDS)
def row_twice(folder: Path) -> None:
    """A row stands there twice and says the same."""
    _state(folder, participants() + "sub-02\t32\tF\ttrain\n")


@kind("two-splits", refused("sub-02", "train", "test"))
def two_splits(folder: Path) -> None:
    """A person's two rows state two splits."""
    _state(folder, participants() + "sub-02\t32\tF\ttest\n")


@kind("column-twice", refused("participants.tsv", "participant_id|column"))
def column_twice(folder: Path) -> None:
    """There are two columns `participant_id` with other contents.

    Found: https://github.com/mne-tools/mne-bids-pipeline/pull/600
    """
    lines = [line.split("\t") for line in participants().splitlines()]
    rows = [[first, f"CQ{place}" if place else first, *rest] for place, (first, *rest) in enumerate(lines)]
    _state(folder, "".join("\t".join(row) + "\n" for row in rows))


@kind("split-of-a-stranger", refused("BraTS2021_00099"))
def split_of_a_stranger(folder: Path) -> None:
    """`splits.json` names a subject that is not there."""
    brats(folder)
    path = folder / "splits.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated["train"].append(case(99))
    path.write_text(json.dumps(stated), encoding="utf-8")


@kind("sessions-apart", refused("sub-01", "train", "test"))
def sessions_apart(folder: Path) -> None:
    """The stated split trains on a person's first session and tests on the second."""
    stated: dict[str, list[str]] = {}
    for number in (1, 2, 3):
        for session in (1, 2):
            name = f"{person(number)}_ses-{session}"
            path = folder / person(number) / f"ses-{session}" / "anat" / f"{name}_T1w.nii.gz"
            write(path, nifti(voxels(number, "T1w") + session))
            stated.setdefault("test" if session == 2 else "train", []).append(name)
    (folder / "splits.json").write_text(json.dumps(stated), encoding="utf-8")


@kind("nobody-trains", refused("train"), options={"fractions": (0.0, 0.0, 1.0)})
def nobody_trains(folder: Path) -> None:
    """All people are asked into the test split: none may be moved to training in silence."""
    bids(folder, split=False)


@kind("three-people", named("val"))
def three_people(folder: Path) -> None:
    """Of three people drawn by the usual shares none validates."""
    bids(folder, split=False, people=3)


def _table(folder: Path, paths: dict[tuple[int, str], str]) -> None:
    rows = ["subject,contrast,path,split"]
    for number in range(1, PEOPLE + 1):
        for contrast in ("T1w", "T2w"):
            path = bids_path(folder, number, contrast).relative_to(folder).as_posix()
            path = paths.get((number, contrast), path)
            rows.append(f"{person(number)},{contrast},{path},{SPLITS[number - 1]}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@kind("healthy-table", right(every(everyone_follows("T1w", "T2w"), splits_stand), quiet=True), data="table.csv")
def healthy_table(folder: Path) -> None:
    """A table of scans: nothing to be said."""
    bids(folder)
    _table(folder, {})


@kind("dicom-folder", refused("dicom", "line 4"), data="table.csv")
def dicom_folder(folder: Path) -> None:
    """A row names a folder of DICOM files, which is there: that it does not exist would be untrue."""
    bids(folder)
    _table(folder, {(2, "T1w"): "export/0002"})
    (folder / "export" / "0002").mkdir(parents=True)
    for number in range(3):
        (folder / "export" / "0002" / f"IM{number:04d}").write_bytes(bytes(128) + b"DICM" + bytes(64))
