"""Files that are not what their name says, or not whole."""

import gzip
import json
from pathlib import Path

from .checks import follows
from .heads import bids, bids_path, nifti, read, voxels, write
from .registry import kind, named, refused, right


@kind("not-compressed", right(follows(2)))
def not_compressed(folder: Path) -> None:
    """The name ends in `.nii.gz`, and the file is not compressed.

    Found: https://github.com/nipy/nibabel/issues/898
    """
    bids(folder)
    path = bids_path(folder, 2)
    path.write_bytes(read(path))


@kind("compressed-after-all", right(follows(2)))
def compressed_after_all(folder: Path) -> None:
    """The name ends in `.nii`, and the file is compressed."""
    bids(folder)
    bids_path(folder, 2).rename(bids_path(folder, 2, name="T1w.nii"))


@kind("compressed-twice", refused("sub-02_T1w", "compress|gz|nifti"))
def compressed_twice(folder: Path) -> None:
    """The file was compressed a second time."""
    bids(folder)
    path = bids_path(folder, 2)
    path.write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))


@kind("truncated", refused("sub-02_T1w", "truncated|corrupt|damaged"))
def truncated(folder: Path) -> None:
    """The copy broke off: the compressed stream has no end.

    Found: https://github.com/tomaroberts/nii2dcm/issues/40
    """
    bids(folder)
    path = bids_path(folder, 2)
    path.write_bytes(path.read_bytes()[:-1000])


@kind("wrong-checksum", refused("sub-02_T1w", "truncated|corrupt|damaged|checksum"))
def wrong_checksum(folder: Path) -> None:
    """The file decompresses, but its checksum is another: some voxels are not what they were.

    Found: https://github.com/nipreps/mriqc/issues/623
    """
    bids(folder)
    path = bids_path(folder, 2)
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF
    path.write_bytes(bytes(data))


@kind("voxels-missing", refused("sub-02_T1w", "truncated|corrupt|damaged|voxels"))
def voxels_missing(folder: Path) -> None:
    """The header promises more voxels than the file has."""
    bids(folder)
    path = bids_path(folder, 2)
    write(path, read(path)[:-5000])


@kind("no-bytes", refused("sub-02_T1w", "empty|truncated|0 bytes"))
def no_bytes(folder: Path) -> None:
    """The file is there and has no bytes.

    Found: https://github.com/bids-standard/legacy-validator/issues/454
    """
    bids(folder)
    bids_path(folder, 2).write_bytes(b"")


@kind("pointer", refused("sub-02_T1w", "nifti|pointer"))
def pointer(folder: Path) -> None:
    """In place of the scan stands the text by which Git LFS would fetch it.

    Found: https://github.com/neheller/kits19/issues/5
    """
    bids(folder)
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 40000000\n"
    bids_path(folder, 2).write_text(text, encoding="utf-8")


@kind("web-page", refused("sub-02_T1w", "nifti"))
def web_page(folder: Path) -> None:
    """A download that asked for a password was saved under the scan's name."""
    bids(folder)
    bids_path(folder, 2).write_text("<!DOCTYPE html><title>Log in</title>", encoding="utf-8")


@kind("dicom-inside", refused("sub-02_T1w", "nifti", "dicom"))
def dicom_inside(folder: Path) -> None:
    """A DICOM file was renamed to `.nii.gz`."""
    bids(folder)
    bids_path(folder, 2).write_bytes(bytes(128) + b"DICM" + bytes(512))


def _sidecar(folder: Path, data: bytes) -> None:
    bids(folder)
    bids_path(folder, 2, name="T1w.json").write_bytes(data)


@kind("trailing-comma", refused("sub-02_T1w.json"))
def trailing_comma(folder: Path) -> None:
    """Someone edited the sidecar and left a comma after the last entry.

    Found: https://github.com/ExploreASL/ExploreASL/issues/1264
    """
    _sidecar(folder, b'{"EchoTime": 0.00298, "RepetitionTime": 2.3,}')


@kind("latin-1", refused("sub-02_T1w.json"))
def latin_1(folder: Path) -> None:
    """A degree sign in the sidecar is written in an old encoding.

    Found: https://github.com/nipreps/fmriprep/issues/2636
    """
    _sidecar(folder, '{"EchoTime": 0.00298, "Comment": "9° flip"}'.encode("latin-1"))


@kind("milliseconds", named("EchoTime", "sub-02", check=follows(2)))
def milliseconds(folder: Path) -> None:
    """The sidecar's times are a thousand times too long.

    Found: https://github.com/brainlife/ezbids/issues/137
    """
    _sidecar(folder, json.dumps({"EchoTime": 4.0, "RepetitionTime": 2300.0, "FlipAngle": 9}).encode())


@kind("float-voxels", right(follows(2), quiet=True))
def float_voxels(folder: Path) -> None:
    """One scan is float64 among integers: nothing to be said."""
    bids(folder)
    write(bids_path(folder, 2), nifti(voxels(2, "T1w"), dtype=float))
