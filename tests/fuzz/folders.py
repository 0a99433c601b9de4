"""Small folders that users keep and that the project makes, and what damage and hands may make of their files.

A case is a whole folder, name → bytes, of which one to three files are changed, lost, emptied or put in each other's
place. The folders are made once, by `make`, as a run's weights are not the same bytes on every machine.
"""

import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import File, flip, grow, json_value, line, repeat, splice, truncate

SCANS = ("sub-01", "sub-02", "sub-03")
CELLS = (
    "", " ", "nan", "-1", "../x", "/etc/passwd", "x" * 300, "sub-01", "sub-1", "SUB-01", "é", "a/b", "train", "test",
    "Train ", "=1+1", "\0", '"', "T1w", "t1", "T1W", "CT", "FLAIR", "n/a", "1e999", "sub-01/T2w.nii.gz", ".",
)  # fmt: skip
YAML = (
    "nan", ".nan", ".inf", "-1", "0", "1e999", "9" * 400, "null", "[]", "{}", "[1, 2, 3]", "true", "'x'", "*a", "&a 1",
    "!!python/object/apply:os.system ['id']", "!!binary aaaa", "[" * 2000, "2001-01-01", "é", "0x1f", "1_000", "~",
    "60000", "[4096, 4096, 4096]",
)  # fmt: skip
POINTERS = ("", "step-00000009", "../best/step-00000001", "/etc", "step-1", "x" * 300, ".", "step-00000001\n\n", "\0")


def make(folder: Path) -> None:
    """Write the folders, one a kind, each of a few small files."""
    import torch

    from scansynth.config import RunConfig, Training
    from scansynth.data.build_cohort import build_cohort
    from scansynth.data.layouts import find_subjects
    from scansynth.data.phantom import write_phantom_cohort
    from scansynth.data.prepare import Preparation
    from scansynth.methods import METHODS
    from scansynth.synthesis.folder import translate_cohort
    from scansynth.synthesis.run import Run
    from scansynth.training.train import train

    table, bids = folder / "table", folder / "bids"
    grid: dict[str, Any] = {"shape": (16, 16, 8), "spacing": 12.0}
    write_phantom_cohort(table, 3, ("T1w", "T2w"), layout="table", **grid)
    (table / "splits.json").write_text(
        json.dumps({"train": ["phantom001"], "val": ["phantom002"], "test": ["phantom003"]})
    )
    write_phantom_cohort(bids, 3, ("T1w", "T2w"), layout="BIDS", **grid)
    lines = ["participant_id\tage\tsplit", *(f"{path.name}\t40\ttrain" for path in sorted(bids.glob("sub-*")))]
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    cohort = build_cohort(find_subjects(table / "table.csv"), folder / "cohort", Preparation(size=(16, 16, None)))
    settings = METHODS["regression"].load().Config.tiny()
    training = Training(steps=2, batch_size=1, log_every=1, checkpoint_every=1, validation_slices=1, threads=1)
    config = RunConfig("regression", settings, ("T1w", "T2w"), training=training)
    train(config, cohort, folder / "run", device=torch.device("cpu"))
    translate_cohort(Run.load(folder / "run", "cpu"), find_subjects(table / "table.csv"), folder / "synthetic")
    _dicom(folder / "dicom")
    (folder / "archive").mkdir()
    with zipfile.ZipFile(folder / "archive/x.zip", "w") as archive:
        for path in sorted((folder / "dicom").iterdir()):
            archive.write(path, path.name)


def _dicom(folder: Path) -> None:
    """One axial series of six slices, as a scanner writes it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir()
    pixels = np.random.default_rng(0).integers(1, 900, (6, 12, 10), np.uint16)
    for z, plane in enumerate(pixels):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, generate_uid(entropy_srcs=[str(z)])
        one.file_meta.MediaStorageSOPClassUID = MRImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = (
            generate_uid(entropy_srcs=[what]) for what in ("study", "series", "frame")
        )
        one.PatientName = one.PatientID = "x"
        one.Modality, one.Manufacturer, one.SeriesNumber, one.InstanceNumber = "MR", "SIEMENS", 2, z + 1
        one.SeriesDescription, one.ImageType = "t1_mprage", ["ORIGINAL", "PRIMARY", "M"]
        one.EchoTime, one.RepetitionTime, one.InversionTime, one.FlipAngle = 3, 1900, 900, 9
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-50.0, -60.0, 8.0 * z]
        one.PixelSpacing, one.SliceThickness, one.SpacingBetweenSlices = [10.0, 10.0], 8.0, 8.0
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = 12, 10, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelData = plane.tobytes()
        one.save_as(folder / f"{z:03d}.dcm", enforce_file_format=True)


FIRST = {
    "table": "table.csv", "bids": "participants.tsv", "cohort": "cohort.json", "run": "config.yaml",
    "synthetic": "contrasts.tsv", "dicom": "000.dcm", "archive": "x.zip",
}  # fmt: skip
"""Kind of folder → the file in it by which it is named to the readers."""
OFTEN = {
    "table": ("table.csv", "splits.json"), "bids": ("participants.tsv",), "cohort": ("cohort.json",),
    "run": ("config.yaml", "preparation.json", "current", "state.json", "weights.safetensors"),
    "synthetic": ("contrasts.tsv",),
}  # fmt: skip
"""Names of files that are changed oftener than the others of their folder."""


def draw(rng: random.Random, bases: Path) -> tuple[str, str, File]:
    """A folder of which some files are changed: of which kind, by what, and its files, the first named one first."""
    kind = rng.choice(sorted(FIRST))
    base = bases / kind
    names = sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())
    names = [name for name in names if not name.startswith(("tensorboard", "validation"))]
    names.sort(key=lambda name: name != FIRST[kind])
    file = {name: (base / name).read_bytes() for name in names}
    often = [name for name in names if Path(name).name in OFTEN.get(kind, ())]
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(often if often and rng.random() < 0.7 else names)
        if name not in file:
            continue
        if rng.random() < 0.1:
            done.append(_misplace(file, name, rng))
            continue
        change = rng.choice(_for(name))
        file[name] = change(file[name], rng)
        done.append(change.__name__.strip("_"))
    return kind, "+".join(done) or "nothing", file


def _misplace(file: File, name: str, rng: random.Random) -> str:
    """A file lost, emptied, with another's content, or with a second one of nearly its name beside it."""
    what = rng.choice(("lose", "empty", "other", "twin"))
    if what == "lose" and len(file) > 1:
        del file[name]
    elif what == "empty":
        file[name] = b""
    elif what == "other":
        file[name] = file[rng.choice(list(file))]
    else:
        file[str(Path(name).with_name(rng.choice(("._", "x", "sub-01_", " ")) + Path(name).name))] = file[name]
    return what


def _for(name: str) -> list[Callable[[bytes, random.Random], bytes]]:
    """What may be done to a file of this name; to texts mostly what hands do."""
    general = [flip, truncate, grow, splice, repeat]
    own = {
        ".csv": [_cell, _cell, _row], ".tsv": [_cell, _cell, _row], ".json": [json_value, json_value, line, _member],
        ".yaml": [_setting, _setting, line], ".safetensors": [_tensor], ".dcm": [_tag], ".zip": [_entry],
    }.get(Path(name).suffix, [])  # fmt: skip
    if Path(name).name == "current":
        own = [_pointer]
    return general + own * (12 // max(1, len(own)))


def _cell(content: bytes, rng: random.Random) -> bytes:
    """One cell of a table."""
    sign = b"\t" if b"\t" in content else b","
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    cells = lines[place].split(sign)
    cells[rng.randrange(len(cells))] = rng.choice(CELLS).encode()
    lines[place] = sign.join(cells)
    return b"\n".join(lines)


def _row(content: bytes, rng: random.Random) -> bytes:
    """One line of a table lost, twice, with a cell more or less, or with the line ends of another system."""
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    what = rng.randrange(6)
    if what == 0:
        del lines[place]
    elif what == 1:
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif what == 2:
        lines[place] += b",x\tx"
    elif what == 3:
        lines[place] = re.split(rb"[,\t]", lines[place])[0]
    elif what == 4:
        return b"\xef\xbb\xbf" + b"\r\n".join(lines)
    else:
        return b"\r".join(lines) if rng.random() < 0.5 else content.decode(errors="replace").encode("utf-16")
    return b"\n".join(lines)


def _member(content: bytes, rng: random.Random) -> bytes:
    """One value of a JSON record at any depth replaced, gone or under another name."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if isinstance(value, dict) and rng.random() < 0.5:
        value.pop("record_sha256", None)  # as older versions wrote it: no hash tells, but its form
    place: Any = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            return content
        key = rng.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    what = rng.randrange(4)
    if what == 0:
        del place[key]
    elif what == 1 and isinstance(place, dict):
        place[rng.choice(("x", "", "é", "../x"))] = place.pop(key)
    else:
        place[key] = rng.choice((None, True, -1, 0, 10**30, 1e308, "", "x", "../../x", [], {}, [[]], "9" * 400))
    return json.dumps(value).encode()


def _setting(content: bytes, rng: random.Random) -> bytes:
    """One value of a settings file."""
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    key, sign, _ = lines[place].partition(b":")
    lines[place] = key + (sign or b":") + b" " + rng.choice(YAML).encode()
    return b"\n".join(lines)


def _pointer(content: bytes, rng: random.Random) -> bytes:
    return rng.choice(POINTERS).encode()


def _tensor(content: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file: its length, or a word in it."""
    if rng.random() < 0.3 or len(content) < 16:
        return rng.choice((0, 1, 2**20, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little") + content[8:]
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    words = list(re.finditer(rb"[A-Za-z_0-9.]+", header))
    if not words:
        return content
    word = rng.choice(words)
    other = rng.choice((b"F32", b"F64", b"BOOL", b"I64", b"BF16", b"0", b"9" * 20, b"-1", b"x", b"1"))
    header = header[: word.start()] + other + header[word.end() :]
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _tag(content: bytes, rng: random.Random) -> bytes:
    """One element of a DICOM file: its value or its length, set where its tag stands."""
    tags = {
        "rows": b"\x28\x00\x10\x00US", "columns": b"\x28\x00\x11\x00US", "bits": b"\x28\x00\x00\x01US",
        "samples": b"\x28\x00\x02\x00US", "position": b"\x20\x00\x32\x00DS", "axes": b"\x20\x00\x37\x00DS",
        "spacing": b"\x28\x00\x30\x00DS", "series": b"\x20\x00\x0e\x00UI", "number": b"\x20\x00\x11\x00IS",
        "echo": b"\x18\x00\x81\x00DS", "patient": b"\x10\x00\x20\x00LO", "syntax": b"\x02\x00\x10\x00UI",
    }  # fmt: skip
    place = content.find(rng.choice(list(tags.values())))
    if place < 0:
        return content
    length = int.from_bytes(content[place + 6 : place + 8], "little")
    if rng.random() < 0.2:
        return content[: place + 6] + rng.randbytes(2) + content[place + 8 :]
    value = rng.choice(
        (bytes(length), b"\xff" * length, rng.randbytes(length), b"9" * length, b"-1\\nan\\1e99  "[:length])
    )
    return content[: place + 8] + value.ljust(length, b" ") + content[place + 8 + length :]


def _entry(content: bytes, rng: random.Random) -> bytes:
    """A field of an archive's directory: a size, a name, a flag."""
    place = content.find(b"PK\x01\x02")
    for _ in range(rng.randrange(4)):
        place = content.find(b"PK\x01\x02", place + 1) if place >= 0 else place
    if place < 0:
        return content
    start, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (42, 4), (46, 7)))
    value = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), b"../../x"[:size].ljust(size, b"x")))
    return content[: place + start] + value + content[place + start + size :]


def calls(scratch: Path) -> dict[str, list[Callable[[Path], Any]]]:
    """Kind → what is done with such a folder, given the path of its first file."""
    from scansynth.config import read_yaml
    from scansynth.data.cohort import Cohort
    from scansynth.data.dry_run import dry_run
    from scansynth.data.layouts import find_subjects
    from scansynth.data.prepare import Preparation
    from scansynth.data.raw.dicom_series import one_series
    from scansynth.synthesis.contrast_table import read_table, synthetic_images
    from scansynth.synthesis.image import is_made
    from scansynth.synthesis.inspection import inspect
    from scansynth.synthesis.run import Run
    from scansynth.synthesis.writers.dicom import read_planes

    def table(path: Path) -> None:
        dry_run(find_subjects(path), Preparation(size=(16, 16, None)))

    def bids(path: Path) -> None:
        dry_run(find_subjects(path.parent), Preparation(size=(16, 16, None)))

    def cohort(path: Path) -> None:
        opened = Cohort.open(path.parent)
        for subject in opened.subjects():
            for contrast in opened.available(subject):
                array = opened.read(subject, contrast)
                assert np.isfinite(array).all()
                opened.affine(subject, contrast), opened.acquisition(subject, contrast)
        assert opened.settings is not None

    def run(path: Path) -> None:
        loaded = Run.load(path.parent, "cpu")
        assert all(tensor.isfinite().all() for net in loaded.method.nets.values() for tensor in net.parameters())

    def look(path: Path) -> None:
        found = inspect(path.parent)
        assert not [line for line in found.off if str(path.parent) not in line or len(line) > 1000]

    def settings(path: Path) -> None:
        read_yaml(path)

    def synthetic(path: Path) -> None:
        synthetic_images(path.parent)
        read_table(path)
        for image in path.parent.rglob("*.nii.gz"):
            is_made(image, {}, "otherwise")

    def planes(path: Path) -> None:
        read_planes(path.parent)

    def series(path: Path) -> None:
        made = scratch / "converted"
        made.mkdir(exist_ok=True)
        one_series(path if path.suffix == ".zip" else path.parent, made)

    return {
        "table": [table], "bids": [bids], "cohort": [cohort], "run": [run, settings, look], "synthetic": [synthetic],
        "dicom": [planes, series], "archive": [series],
    }  # fmt: skip
