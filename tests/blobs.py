"""Small scans whose contrasts reach here and there, and a cohort as an older version left it."""

import json
from itertools import combinations

import nibabel as nib
import numpy as np

from scansynth.data.arrays import write_array
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import Listing, Subject

K = ("T1w", "T2w", "FLAIR")
BOXES = (
    {"T1w": (4, 14), "T2w": (2, 14), "FLAIR": (7, 18)},
    {"T1w": (3, 12), "T2w": (3, 17), "FLAIR": (4, 12)},
    {"T1w": (1, 9), "T2w": (5, 14), "FLAIR": (3, 11)},
)
"""Voxels of each scan that are not empty, along each axis."""
ACCEPTED = ("cut", "cut-off", "background-inside", "almost-empty")
"""Rules that such scans break."""


def write_blobs(folder):
    """Three subjects, who train, validate and test, each with three scans and a mask."""
    subjects, rng = [], np.random.default_rng(0)
    for split in ("train", "val", "test"):
        scans, mask = {}, np.zeros((20, 19, 16), np.uint8)
        for contrast in K:
            array = np.zeros((20, 19, 16), np.float32)
            box = tuple(slice(*ends[contrast]) for ends in BOXES)
            array[box] = rng.uniform(100, 300, array[box].shape)
            mask[box] += rng.integers(0, 2, mask[box].shape, dtype=np.uint8)
            scans[contrast] = folder / f"{split}_{contrast}.nii.gz"
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1, 2, 1])), scans[contrast])
        nib.save(nib.Nifti1Image(mask, np.diag([-1.0, 1, 2, 1])), folder / f"{split}_seg.nii.gz")
        masks = {"seg": folder / f"{split}_seg.nii.gz"}
        subjects.append(Subject(name=split, scans=scans, masks=masks, split=split, sidecars={}))
    return Listing("table", folder, tuple(subjects), K)


def scans_of(listing, subject):
    """Files of a subject by contrast."""
    return next(one for one in listing.subjects if one.name == subject).scans


def sets_of(names):
    """All sets but the empty one."""
    return [some for count in range(1, len(names) + 1) for some in combinations(names, count)]


def as_older(cohort):
    """The cohort as an older version left it: test subjects on the crop of all their scans, and nothing of others."""
    for subject in cohort.subjects("test"):
        scans = cohort.folder / "scans" / subject
        for path in sorted(scans.glob("*.b2nd")):
            if not path.name.startswith("tissue_"):
                write_array(cohort._read(subject, path.name, None), path)
        for path in scans.glob("*.json"):
            record = json.loads(path.read_text())
            del record["extent"]
            path.write_text(json.dumps({**record, "key": "of an older version"}))
    index = json.loads((cohort.folder / "cohort.json").read_text())
    for subject in cohort.subjects("test"):
        for scan in index["subjects"][subject]["scans"].values():
            del scan["extent"]
    del index["record_sha256"]  # older versions wrote none, nor hashes of arrays
    for subject in index["subjects"].values():
        del subject["files"]
    for path in cohort.folder.glob("scans/*/SHA256SUMS"):
        path.unlink()
    (cohort.folder / "cohort.json").write_text(json.dumps(index))
    return Cohort.open(cohort.folder)


def blank(path, axis, voxels):
    """Take the first voxels of a scan's foreground along an axis away: the scan reaches less far than the others."""
    image = nib.load(path)
    array = image.get_fdata(dtype=np.float32)
    others = tuple(other for other in range(3) if other != axis)
    first = np.flatnonzero((array > 0).any(others))[0]
    array[(*[slice(None)] * axis, slice(0, first + voxels))] = 0
    nib.save(nib.Nifti1Image(array, image.affine, image.header), path)
