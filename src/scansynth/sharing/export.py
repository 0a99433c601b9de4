"""A run handed on: what synthesis needs of it and no more, with a card that says what it is.

FOLDER/config.yaml, preparation.json, …   the run, which `--run FOLDER` takes; of its people only numbers
       last/ or best/                     the weights that synthesis takes, without the optimisers
       card.json                          for programs (`synthesis/card.py`)
       README.md                          the same for people
       configs/                           a bundle that MONAI runs (`sharing/monai_bundle.py`)

No scan goes along: pictures of validation subjects, curves and names stay behind.
"""

import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import numpy as np

import scansynth
from scansynth.data.cohort import Cohort
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.evaluation.tables import COPIED_SOURCE
from scansynth.files import place_beside, sha256_of, sync, write_text, written
from scansynth.methods import find_entry
from scansynth.records import read_json, sealed
from scansynth.sharing.card_text import LIMITS, card_text
from scansynth.sharing.monai_bundle import write_bundle
from scansynth.synthesis.card import FILE, VERSION, Card, facts_of, people_of, read_card
from scansynth.synthesis.intervals import FILE as INTERVALS
from scansynth.synthesis.intervals import weights_of_intervals
from scansynth.synthesis.run import Run
from scansynth.training.checkpoint import find_weights, read_state
from scansynth.training.first_stage import FOLDER as FIRST_STAGE
from scansynth.training.run_folder import named_weights
from scansynth.training.selection import Which

NOT_STATED = "not stated"
OLDEST = 90
"""Ages from here on are one: they could tell who somebody is."""
_TOLD = ("step", "validated", "subjects", "rule")
"""Of a checkpoint's state, what synthesis goes by."""
_STAMP = (1980, 1, 1, 0, 0, 0)
"""Of what is in an archive: one run makes one archive, byte by byte."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What only whoever exports a run can say of it."""

    name: str = ""
    """Of the run; by default its folder's."""
    data: str = NOT_STATED
    """What it was trained on."""
    data_licence: str = NOT_STATED
    """Of that."""
    licence: str = NOT_STATED
    """Of the weights."""
    limits: tuple[str, ...] = ()
    """What it is not for, beside what holds for every run."""


class _Row(TypedDict):
    label: str
    direction: str
    n_subjects: int
    subjects: dict[str, Any]


class _Table(TypedDict):
    """What is taken of an evaluation's `table.json`."""

    protocol: dict[str, Any]
    syntheses: str
    notes: list[str]
    weights: dict[str, str]
    rows: list[_Row]


def export_run(
    folder: Path,
    out: Path,
    statement: Statement = Statement(),
    *,
    weights: Which = "auto",
    evaluations: Iterable[Path] = (),
    cohort: Cohort | None = None,
) -> Path:
    """Export a trained run.

    Args:
        folder: of the run.
        out: a folder that is not there yet, or a file `….zip`.
        statement: what is stated of data, licences and limits.
        weights: which of the training.
        evaluations: folders of `scansynth evaluate`, whose figures go onto the card.
        cohort: that the run was trained on: ages and sex of its people go onto the card, as numbers of them all.

    Returns:
        The folder or archive.

    Raises:
        InputError: if the run cannot be loaded, something stands at `out`, or an evaluation is of other weights.
        OSError: if it cannot be written; then nothing stands there.
    """
    if os.path.lexists(out):
        raise InputError(f"{out} is there already: choose another place, or move it away")
    run = Run.load(folder, "cpu", weights=weights)
    card = _card(run, statement, figures=[one for place in evaluations for one in _figures(run, place)], cohort=cohort)
    if out.suffix.lower() == ".zip":
        with TemporaryDirectory(prefix="scansynth-") as place:
            _write(run, card, Path(place, "run"), weights=weights)
            _archive(Path(place, "run"), out)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = place_beside(out)
    try:
        _write(run, card, beside, weights=weights)
        os.rename(beside, out)
        sync(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _card(run: Run, statement: Statement, *, figures: list[dict[str, Any]], cohort: Cohort | None) -> dict[str, Any]:
    """The card without the hashes of the files."""
    entry = find_entry(run.config.method)[1]
    statement = _with_card(statement, run.card)
    if cohort:
        run.record.check_same(cohort, run.folder)
    known = [cohort.labels(subject) for subject in cohort.subjects("train")] if cohort else []
    name, named = statement.name or run.name, named_weights(run.folder)
    if not name.isprintable() or "/" in name:
        raise InputError(f"--name {name!r}: a name has no line ends and no slashes")
    return {
        "card": VERSION,
        "name": name,
        "description": entry.description,
        "citation": entry.citation,
        **facts_of(run),
        "weights": {**run.weights, "licence": statement.licence, **({"named": named} if named else {})},
        "training_data": {
            "description": statement.data, "licence": statement.data_licence,
            "people": people_of(run.record.splits), **_about(known, run.card),
        },
        "figures": figures or (run.card["figures"] if run.card else []),
        "limits": [*LIMITS, *statement.limits],
        "made_by": {"scansynth": scansynth.__version__},
    }  # fmt: skip


def _about(known: Sequence[Mapping[str, str]], card: Card | None) -> dict[str, str]:
    """Age and sex of the training subjects, of a run that was exported before as its card has them."""
    if card and not known:
        return {"age": card["training_data"]["age"], "sex": card["training_data"]["sex"]}
    return {"age": _ages(known), "sex": _sexes(known)}


def _with_card(statement: Statement, card: Card | None) -> Statement:
    """What is stated, and where nothing is, what the card of a run that was exported before says."""
    if card is None:
        return statement
    data, limits = card["training_data"], (one for one in card["limits"] if one not in LIMITS)
    before = {"data": data["description"], "data_licence": data["licence"], "licence": card["weights"]["licence"]}
    kept = {name: value for name, value in before.items() if getattr(statement, name) == NOT_STATED}
    return replace(statement, **kept, limits=tuple(dict.fromkeys((*limits, *statement.limits))))


def _ages(known: Iterable[Mapping[str, str]]) -> str:
    """Ages of the training subjects as their median and range, in steps of five years."""
    values = []
    for labels in known:
        try:
            values.append(min(float(_label(labels, "age")), OLDEST))
        except ValueError:
            continue
    if not values:
        return NOT_STATED
    low, high = 5 * int(min(values) // 5), 5 * int(max(values) // 5)
    top = f"{OLDEST} or more" if high >= OLDEST else f"{high + 4}"
    return f"{low} to {top} years, median {np.median(values):.0f}, known of {len(values)}"


def _sexes(known: Iterable[Mapping[str, str]]) -> str:
    counts = Counter(value for labels in known if (value := _label(labels, "sex")))
    return ", ".join(f"{count} {value}" for value, count in sorted(counts.items())) or NOT_STATED


def _label(labels: Mapping[str, str], name: str) -> str:
    return next((value for key, value in labels.items() if key.lower() == name), "")


def _figures(run: Run, evaluation: Path) -> list[dict[str, Any]]:
    """Figures of these weights in an evaluation's folder, and of the copied source beside them."""
    path = evaluation / "table.json"
    table: _Table = read_json(path, _Table, "give the -o of a `scansynth evaluate` of this version")
    labels = [label for label, digest in table["weights"].items() if digest == run.weights["sha256"]]
    if not labels:
        raise InputError(f"{path}: figures of other weights than those of {run.folder}: evaluate it, and give that")
    own = [row for row in table["rows"] if row["label"] == labels[0]]
    directions = {row["direction"].rpartition("→")[2] for row in own}
    copied = [
        row for row in table["rows"]
        if row["label"] == COPIED_SOURCE and row["direction"].rpartition("→")[2] in directions
    ]  # fmt: skip
    return [
        {
            "of": "copied source" if row["label"] == COPIED_SOURCE else "this run", "direction": row["direction"],
            "subjects": row["n_subjects"], "protocol": f"{table['protocol']['name']} {table['protocol']['version']}",
            "syntheses": table["syntheses"], "notes": table["notes"],
            "figures": {name: value["mean"] for name, value in row["subjects"].items()},
        }
        for row in (*own, *copied)
    ]  # fmt: skip


def _write(run: Run, card: Mapping[str, Any], out: Path, *, weights: Which) -> None:
    """Write the folder."""
    out.mkdir(parents=True)
    for name in ("config.yaml", "environment.json"):
        shutil.copyfile(run.folder / name, out / name)
    _without_names(run.record).write(out)
    if (run.folder / FIRST_STAGE).is_dir():
        shutil.copytree(run.folder / FIRST_STAGE, out / FIRST_STAGE)
    if weights_of_intervals(run.folder) == card["weights"]["sha256"]:
        shutil.copyfile(run.folder / INTERVALS, out / INTERVALS)
    _copy_weights(find_weights(run.folder, weights), out)
    if run.method.targets and not (run.method.reconstructs or run.method.needs.generates):
        write_bundle(out, card)
    write_text(out / "README.md", card_text(card))
    files = sorted(path for path in out.rglob("*") if path.is_file())
    listed = {path.relative_to(out).as_posix(): [path.stat().st_size, sha256_of(path)] for path in files}
    write_text(out / FILE, json.dumps(sealed({**card, "files": listed}), indent=1, ensure_ascii=False) + "\n")
    assert read_card(out)
    for path in files:
        sync(path)


def _without_names(record: PreparationRecord) -> PreparationRecord:
    """What a run keeps of its cohort, with numbers in place of its people's names."""
    width = len(str(len(record.splits)))
    splits = {f"subject-{number:0{width}}": split for number, split in enumerate(sorted(record.splits.values()), 1)}
    return replace(record, splits=splits)


def _copy_weights(checkpoint: Path, out: Path) -> None:
    """The weights that synthesis takes, bit by bit, and of the state what tells of them."""
    state = read_state(checkpoint)
    names = ["weights.safetensors"]
    if checkpoint.parent.name == "last":
        names.append("averages.safetensors")
    place = out / checkpoint.parent.name / checkpoint.name
    place.mkdir(parents=True)
    for name in names:
        shutil.copyfile(checkpoint / name, place / name)
    told: dict[str, Any] = {name: value for name, value in state.items() if name in _TOLD}
    told["files"] = {name: [(place / name).stat().st_size, sha256_of(place / name)] for name in names}
    write_text(place / "state.json", json.dumps(told, indent=1))
    write_text(place.parent / "current", place.name)


def _archive(folder: Path, out: Path) -> None:
    """A folder as a zip archive: the same files make the same bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with written(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _STAMP)
                member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                with path.open("rb") as source, archive.open(member, "w") as target:
                    shutil.copyfileobj(source, target)
