"""Names of synthetic images in a folder of translations, by BIDS or beside it, and the description of the folder."""

import json
import os
from pathlib import Path

import scansynth
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.synthesis.image import NOTICE, content_of

DESCRIPTION = "dataset_description.json"
SIDECARS = ("*/*_synthetic.json", "sub-*/anat/*_desc-synthetic_*.json", "sub-*/ses-*/anat/*_desc-synthetic_*.json")
"""Where their sidecars stand."""


def output_path(out: Path, layout: str, subject: str, contrast: str) -> Path:
    """Where a synthetic image goes in a folder of translations."""
    if layout != "BIDS":
        return out / subject / f"{subject}_{contrast}_synthetic.nii.gz"
    contrast_entity, suffix = ("_ce-gadolinium", "T1w") if contrast == "T1ce" else ("", contrast)
    return out.joinpath(*subject.split("_"), "anat", f"{subject}{contrast_entity}_desc-synthetic_{suffix}.nii.gz")


def describe(out: Path) -> None:
    """Write the description of a BIDS derivative, where there is none yet."""
    path = out / DESCRIPTION
    if not path.exists():
        write_text(path, json.dumps(_description(), indent=1))


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
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "scansynth", "Version": scansynth.__version__, "Description": NOTICE}],
    }
