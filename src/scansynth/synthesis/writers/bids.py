"""Names of synthetic images in a folder of translations, by BIDS or beside it, and the description of the folder.

A source is named by its place in the data that the user gave: the folders above it may name patients, or people who
work with them.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import scansynth
from scansynth.data.kept_values import place_in
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.synthesis.image import NOTICE, content_of

DESCRIPTION = "dataset_description.json"
IGNORE = ".bidsignore"
SIDECARS = ("*/*_synthetic.json", "sub-*/anat/*_desc-synthetic_*.json", "sub-*/ses-*/anat/*_desc-synthetic_*.json")
"""Where their sidecars stand."""

_SUFFIXES = ("T1w", "T2w", "PDw", "FLAIR", "T2starw")
"""Of the contrasts, those that BIDS has."""
_DOI = re.compile(r"(?:doi:|https://doi\.org/)?(10\.\d{4,9}/[-._;()/:A-Za-z0-9]+)")


def output_path(out: Path, layout: str, subject: str, contrast: str) -> Path:
    """Where a synthetic image goes in a folder of translations."""
    if layout != "BIDS":
        return out / subject / f"{subject}_{contrast}_synthetic.nii.gz"
    contrast_entity, suffix = _named(contrast)
    return out.joinpath(*subject.split("_"), "anat", f"{subject}{contrast_entity}_desc-synthetic_{suffix}.nii.gz")


def _named(contrast: str) -> tuple[str, str]:
    """Entity and suffix of a contrast."""
    return ("_ce-gadolinium", "T1w") if contrast == "T1ce" else ("", contrast)


def place_of(file: Path, root: Path, link: str | None = None) -> str:
    """A file of the data, named by its place in it; one from elsewhere (a table may list such) by its name alone.

    Args:
        file: of the data.
        root: folder of the data.
        link: what a BIDS folder calls that data set (`describe`), for a BIDS URI.
    """
    place = place_in(Path(os.path.abspath(file)), root)
    return f"bids:{link}:{place}" if link else place


def sidecar_fields(provenance: Mapping[str, Any], files: Mapping[str, Path], root: Path, link: str) -> dict[str, Any]:
    """What BIDS wants of the sidecar of a derivative, beside `SkullStripped`.

    Args:
        provenance: of the image.
        files: contrast → the source's file.
        root: folder of the data.
        link: as in `place_of`.
    """
    made = (
        f"Synthetic {provenance['target']}, made of {', '.join(files)} by {provenance['method']} (scansynth). {NOTICE}"
    )
    return {"Description": made, "Sources": [place_of(file, root, link) for file in files.values()]}


def describe(out: Path, root: Path, contrasts: Iterable[str]) -> str:
    """Write or complete the description of a BIDS derivative, and what in it BIDS does not know.

    Args:
        out: folder of the derivative.
        root: BIDS folder that it is made of.
        contrasts: that may be made.

    Returns:
        What BIDS URIs call the data (`DatasetLinks`).

    Raises:
        OSError: if they cannot be written.
    """
    path = out / DESCRIPTION
    before = content_of(path)
    content = {**_description(), **before}
    links, sources, location = content.get("DatasetLinks"), content.get("SourceDatasets"), _location(out, root)
    links = links if isinstance(links, dict) else {}
    link = next((name for name, where in links.items() if where == location), None)
    if link is None:
        link = f"source{len(links) + 1 if links else ''}"
        doi = _doi(root)
        source = {"URL": location, **({"DOI": doi} if doi else {})}
        content["DatasetLinks"] = {**links, link: location}
        content["SourceDatasets"] = [*(sources if isinstance(sources, list) else ()), source]
    if content != before:
        write_text(path, json.dumps(content, indent=1))
    _ignore(out / IGNORE, contrasts)
    return link


def _location(out: Path, root: Path) -> str:
    """The data set as seen from its derivative: its place if that takes the name of no folder, else its DOI or hash."""
    steps = os.path.relpath(root, out)
    if set(Path(steps).parts) == {".."}:
        return steps
    if doi := _doi(root):
        return doi
    try:
        told = (root / DESCRIPTION).read_bytes()
    except OSError:
        told = b""
    return f"hash://sha256/{hashlib.sha256(told).hexdigest()}"


def _doi(root: Path) -> str | None:
    """The DOI that a data set states."""
    found = _DOI.fullmatch(str(content_of(root / DESCRIPTION).get("DatasetDOI", "")))
    return f"doi:{found[1]}" if found else None


def _ignore(path: Path, contrasts: Iterable[str]) -> None:
    """Have validators pass over what BIDS does not know, beside what the file says already."""
    from scansynth.synthesis.contrast_table import NAME

    there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    unknown = sorted({_named(contrast)[1] for contrast in contrasts}.difference(_SUFFIXES))
    lines = [NAME, "*_synthetic.html", "figures", *(
        f"*_{suffix}.{ending}" for suffix in unknown for ending in ("nii.gz", "json")
    )]  # fmt: skip
    if missing := [line for line in lines if line not in there]:
        write_text(path, "\n".join([*there, *missing, ""]))


def check_describable(out: Path) -> None:
    """Check that a folder is no data set of somebody else, among whose scans synthetic files would stand.

    Raises:
        InputError: if it is, by its description.
    """
    path = out / DESCRIPTION
    makers = content_of(path).get("GeneratedBy")
    names = [one.get("Name") for one in makers if isinstance(one, dict)] if isinstance(makers, list) else []
    if os.path.lexists(path) and "scansynth" not in names:
        raise InputError(f"{path} is that of another data set: choose another -o, synthetic files stand apart")


def _description() -> dict[str, object]:
    """`dataset_description.json` of a BIDS derivative."""
    return {
        "Name": "Synthetic contrasts",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "scansynth", "Version": scansynth.__version__, "Description": NOTICE}],
    }
