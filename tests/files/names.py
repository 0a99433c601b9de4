"""Names: what a folder holds besides the scans that every convention knows."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .checks import all_have, every, everyone_follows, follows
from .heads import AFFINE, PEOPLE, SHAPE, bids, bids_path, brats, brats_path, nifti, person, read, voxels, write
from .registry import kind, named, refused, right


def _rename(folder: Path, number: int, name: str, contrast: str = "T1w") -> None:
    bids_path(folder, number, contrast).rename(bids_path(folder, number, contrast, name))


@kind("upper-case-extension", right(everyone_follows("T1w", "T2w")))
def upper_case_extension(folder: Path) -> None:
    """One file ends in `.NII.GZ`, and a search in small letters does not find it.

    Found: https://github.com/TIGRLab/datman/pull/119
    """
    bids(folder)
    _rename(folder, 2, "T2w.NII.GZ", "T2w")


@kind("upper-case-suffix", right(everyone_follows("T1w", "T2w")))
def upper_case_suffix(folder: Path) -> None:
    """One file ends in `_T1W`."""
    bids(folder)
    _rename(folder, 2, "T1W.nii.gz")


@kind("equalised-alone", named("sub-02_T1w_Eq_1"))
def equalised_alone(folder: Path) -> None:
    """The only T1w of a subject carries the converter's `_Eq_1`: without a word it is missing, and could be made up."""
    bids(folder)
    _rename(folder, 2, "T1w_Eq_1.nii.gz")


@kind("equalised-beside", named("heudiconv740_Eq_1", check=follows(2)))
def equalised_beside(folder: Path) -> None:
    """A second file with equalised slices stands beside the scan under a name of the converter's.

    Found: https://github.com/nipy/heudiconv/issues/694
    """
    bids(folder)
    write(bids_path(folder, 2, name="T1w_heudiconv740_Eq_1.nii.gz"), nifti(voxels(2, "T1w")[:, :, ::2]))


@kind("four-echoes", named("sub-02_T1w_heudiconv422_e1"))
def four_echoes(folder: Path) -> None:
    """One series became four files, an echo each, and none has the plain name.

    Found: https://github.com/nipy/heudiconv/issues/510
    """
    bids(folder)
    bids_path(folder, 2).unlink()
    for echo in range(1, 5):
        name = f"T1w_heudiconv422_e{echo}.nii.gz"
        write(bids_path(folder, 2, name=name), nifti(voxels(2, "T1w") * (1 - echo / 10)))


@kind("brats-upper-case", right(all_have("T1w", "T2w", brats=True)))
def brats_upper_case(folder: Path) -> None:
    """Files of BraTS end in `_T1`: the contrast is gone for everybody where only `_t1` is known."""
    brats(folder)
    for number in range(1, PEOPLE + 1):
        brats_path(folder, number, "t1").rename(brats_path(folder, number, "T1"))


@kind("brats-t1c", right(all_have("T1w", "T1ce", brats=True)))
def brats_t1c(folder: Path) -> None:
    """T1 after contrast agent is called `T1C` here and `t1ce` there.

    Found: https://github.com/mlcommons/medperf/pull/613
    """
    brats(folder, ("T1w", "T1ce"), mask=False)
    for number in range(1, PEOPLE + 1):
        brats_path(folder, number, "t1ce").rename(brats_path(folder, number, "T1C"))


@kind("sequence-name", right(everyone_follows("T1w", "T2w")))
def sequence_name(folder: Path) -> None:
    """One T1w is called by its sequence, `_MPRAGE`."""
    bids(folder)
    _rename(folder, 2, "MPRAGE.nii.gz")


@kind("mac-files", right(everyone_follows("T1w", "T2w")))
def mac_files(folder: Path) -> None:
    """A Mac left a hidden file beside every scan, with the scan's name after `._`.

    Found: https://github.com/Project-MONAI/MONAI/issues/8305
    """
    bids(folder)
    for path in sorted(folder.rglob("*.nii.gz")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(100))
    (folder / ".DS_Store").write_bytes(bytes(64))


@kind("two-runs", named("run-2", "sub-02"))
def two_runs(folder: Path) -> None:
    """A subject has two runs of a contrast, one of them the other reconstructed anew.

    Found: https://github.com/nipreps/fmriprep/issues/2227
    """
    bids(folder)
    _rename(folder, 2, "run-1_T1w.nii.gz")
    write(bids_path(folder, 2, name="run-2_T1w.nii.gz"), nifti(voxels(2, "T1w") * 0.7))


@kind("two-reconstructions", named("rec-norm", "sub-02"))
def two_reconstructions(folder: Path) -> None:
    """A corrected reconstruction (`rec-norm`) stands beside the plain one.

    Found: https://github.com/nipreps/fmriprep/issues/1767
    """
    bids(folder)
    write(bids_path(folder, 2, name="rec-norm_T1w.nii.gz"), nifti(voxels(2, "T1w") * 1.3))


@kind("dangling-link", refused("sub-02_T2w", "exist|link"))
def dangling_link(folder: Path) -> None:
    """A managed data set was cloned and its files not fetched: the scan's name is a link to nowhere.

    Found: https://github.com/bids-standard/legacy-validator/issues/1029
    """
    bids(folder)
    path = bids_path(folder, 2, "T2w")
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/bb/MD5E-s1--0.nii.gz")


@kind("dangling-sidecar", named("sub-02_T1w.json", check=follows(2)))
def dangling_sidecar(folder: Path) -> None:
    """The scan is there, but its sidecar is a link to nowhere.

    Found: https://github.com/bids-standard/pybids/issues/631
    """
    bids(folder)
    bids_path(folder, 2, name="T1w.json").symlink_to("../../.git/annex/objects/aa/bb/MD5E-s1--0.json")


@kind("folder-named-as-image", named("sub-02_T1w.nii.gz"))
def folder_named_as_image(folder: Path) -> None:
    """An archive was unpacked into a folder that is called like the file within."""
    bids(folder)
    path = bids_path(folder, 2)
    path.unlink()
    write(path / path.name, nifti(voxels(2, "T1w")))


@kind("spaces", right(everyone_follows("T1w", "T2w"), quiet=True), data="my scans (copy)")
def spaces(folder: Path) -> None:
    """The path has spaces, at which scripts break it in two.

    Found: https://github.com/afni/afni/issues/431
    """
    bids(folder / "my scans (copy)")


@kind("brackets", right(everyone_follows("T1w", "T2w"), quiet=True), data="[2021] scans")
def brackets(folder: Path) -> None:
    """The path has square brackets, which a search for files takes for a pattern: nothing is found, nothing is said.

    Found: https://github.com/UNFmontreal/Dcm2Bids/issues/341
    """
    bids(folder / "[2021] scans")


@kind("second-download", named("(1)"))
def second_download(folder: Path) -> None:
    """A browser saved the file a second time, `(1)`, and the first was removed."""
    bids(folder)
    _rename(folder, 2, "T1w (1).nii.gz")


def _nrrd(folder: Path, grid: str) -> None:
    """A cohort of which one scan is an NRRD whose header says so of its grid."""
    bids(folder)
    bids_path(folder, 2).unlink()
    sizes = " ".join(map(str, SHAPE))
    header = f"NRRD0004\ntype: short\ndimension: 3\n{grid}sizes: {sizes}\nendian: little\nencoding: raw\n\n"
    data = voxels(2, "T1w").astype("<i2").tobytes(order="F")
    bids_path(folder, 2, name="T1w.nrrd").write_bytes(header.encode() + data)


@kind("nrrd", right(everyone_follows("T1w", "T2w")))
def nrrd(folder: Path) -> None:
    """One scan is an NRRD among NIfTI files."""
    directions, origin = (
        " ".join(f"({','.join(map(str, row))})" for row in rows) for rows in (AFFINE[:3, :3].T, AFFINE[None, :3, 3])
    )
    place = f"space directions: {directions}\nspace origin: {origin}\n"
    _nrrd(folder, f"space: right-anterior-superior\n{place}")


@kind("nrrd-without-grid", refused("sub-02_T1w.nrrd", "voxel size"))
def nrrd_without_grid(folder: Path) -> None:
    """One scan is an NRRD that was written from an array alone: it states no voxel size, and 1 mm is made of that."""
    _nrrd(folder, "")


@kind("mgz", right(everyone_follows("T1w", "T2w")))
def mgz(folder: Path) -> None:
    """One scan is in FreeSurfer's format."""
    bids(folder)
    bids_path(folder, 2).unlink()
    array: Any = voxels(2, "T1w")  # nibabel asks for more than numpy states of its arrays
    image = nib.MGHImage(array, AFFINE)
    bids_path(folder, 2, name="T1w.mgz").write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))


@kind("header-and-image", named("sub-02_T1w.hdr|sub-02_T1w.img"))
def header_and_image(folder: Path) -> None:
    """One scan is a pair of header and image, as older data sets have them.

    Found: https://github.com/nipy/nibabel/issues/1004
    """
    bids(folder)
    bids_path(folder, 2).unlink()
    nib.Nifti1Pair(voxels(2, "T1w").astype(np.int16), AFFINE).to_filename(bids_path(folder, 2, name="T1w.img"))


@kind("uncompressed", right(everyone_follows("T1w", "T2w"), quiet=True))
def uncompressed(folder: Path) -> None:
    """Some scans are `.nii`, and a tool that looks for `.nii.gz` writes an empty result.

    Found: https://github.com/bids-standard/bids2nda/issues/28
    """
    bids(folder)
    for number in (2, 4):
        write(bids_path(folder, number, name="T1w.nii"), read(bids_path(folder, number)))
        bids_path(folder, number).unlink()


@kind("compressed-and-not", named("sub-02_T1w.nii"))
def compressed_and_not(folder: Path) -> None:
    """`T1w.nii` and `T1w.nii.gz` stand side by side with other voxels: a reader may take the wrong one.

    Found: https://github.com/Slicer/Slicer/issues/5378
    """
    bids(folder)
    write(bids_path(folder, 2, name="T1w.nii"), nifti(voxels(2, "T1w") * 0.7))


@kind("in-anothers-folder", refused("sub-03_T1w", "sub-02"))
def in_anothers_folder(folder: Path) -> None:
    """A file in one subject's folder bears another subject's name.

    Found: https://github.com/bids-standard/legacy-validator/issues/264
    """
    bids(folder)
    bids_path(folder, 2).rename(bids_path(folder, 2).with_name("sub-03_T1w.nii.gz"))


@kind("folder-without-dash", named("sub02", check=every(follows(1), follows(3))))
def folder_without_dash(folder: Path) -> None:
    """One subject's folder lacks the dash after `sub`.

    Found: https://github.com/nipoppy/nipoppy/pull/1019
    """
    bids(folder, split=False)
    (folder / person(2)).rename(folder / "sub02")
