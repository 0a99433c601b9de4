"""nnU-Net's layout: `dataset.json`, `imagesTr/CASE_0000.nii.gz` with a number a channel, `labelsTr/CASE.nii.gz`."""

import re
from pathlib import Path

from scansynth.data.contrasts import known_name
from scansynth.data.folder_layouts import Found
from scansynth.data.image_files import Folder
from scansynth.data.subject import add_file, make_subject, stem_of
from scansynth.errors import InputError
from scansynth.users_files import read_json

FILE = "dataset.json"
SPLITS = {"imagesTr": "train", "imagesTs": "test"}
LABELS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}
_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def nnunet(root: Folder) -> tuple[Found, list[tuple[str, str]]]:
    """Cases as subjects, and (subject, split) pairs where the data has a test set of its own (`imagesTs`).

    Channels whose name in `dataset.json` is no contrast's that is known are left: they are listed as not taken. Label
    images are masks `seg`.

    Raises:
        InputError: if `dataset.json` names no channels, or one contrast twice.
    """
    parts = {folder.path.name: folder for folder in root.folders if folder.path.name in (*SPLITS, *LABELS.values())}
    file = root.path / FILE
    if not file.is_file() or not SPLITS.keys() & parts.keys():
        return Found(), []
    channels = _channels(file)
    subjects, pairs = [], []
    for part, split in SPLITS.items():
        cases: dict[str, dict[str, Path]] = {}
        for path in parts[part].images() if part in parts else ():
            match = _NAME.fullmatch(stem_of(path.name))
            if match and (contrast := channels.get(int(match["channel"]))):
                add_file(cases.setdefault(match["case"], {}), contrast, path)
        labels = {stem_of(path.name): path for path in parts[LABELS[part]].images()} if LABELS[part] in parts else {}
        for case, scans in cases.items():
            subjects.append(make_subject(case, scans, {"seg": labels[case]} if case in labels else {}))
            pairs.append((case, split))
    return Found(subjects), pairs if len({split for _, split in pairs}) > 1 else []


def _channels(file: Path) -> dict[int, str]:
    """Number → standard contrast, of those that are known."""
    content = read_json(file)
    named = content.get("channel_names", content.get("modality")) if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(str(number).isdigit() for number in named):
        raise InputError(f'{file}: names no channels (channel_names, {{"0": "T1", …}}): mend it, or give a table')
    found: dict[int, str] = {}
    for number, name in named.items():
        contrast = known_name(name) if isinstance(name, str) else None
        if contrast and contrast in found.values():
            raise InputError(f"{file}: two channels are {contrast}: give a table with a name of its own for each")
        if contrast:
            found[int(number)] = contrast
    return found
