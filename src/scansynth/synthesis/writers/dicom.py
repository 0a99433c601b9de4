"""Synthetic images as DICOM: a series of slices, and what is said of their uncertainty as Parametric Maps.

    synthetic image       CT Image or MR Image Storage, a file a slice (PS3.3, A.3 and A.4)
    deviation, intervals  Parametric Map Storage, a file each, float32 (PS3.3, A.75)

Each object says that it is synthetic: Synthetic Data (0008,001C) YES, Image Type DERIVED\\SECONDARY, series and
derivation descriptions, and the program among the contributing equipment. Of the source's acquisition nothing is said:
no echo time holds for an image that no scanner made. With the series that the source was converted from, the new one
joins its study and its frame of reference, plane by plane; without it, it is of a new study of nobody.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scansynth
from scansynth.data.readers import reading
from scansynth.errors import InputError
from scansynth.files import place_beside
from scansynth.synthesis.image import NOTICE, Synthesis
from scansynth.synthesis.writers import writing

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ → DICOM's axes, or back."""
_TOLERANCE = 0.1  # of a voxel, as of NIfTI grids: headers round
_SKEW = 1e-3  # largest cosine between rows and columns
_KEPT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "PatientPosition",
)  # fmt: skip
"""Who and where: what a new series shares with the one that it stands beside."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A slice of a grid."""

    position: np.ndarray
    """(3,) mm, DICOM's axes: centre of the first pixel."""
    across: np.ndarray
    """(3,) mm from a pixel to the next of its row."""
    down: np.ndarray
    """(3,) mm from a pixel to the one below."""
    shape: tuple[int, int]
    """Rows and columns."""
    thickness: float
    """mm."""
    source: "Dataset | None" = None
    """The source's slice there, without its pixels."""

    def of(self, array: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """The plane of an array (X, Y, Z) in RAS+ with its affine, mm: (rows, columns).

        Raises:
            InputError: if its pixels are no voxels of the array.
        """
        to_voxel = np.linalg.inv(_LPS @ affine)
        found = [
            to_voxel @ [*self.position, 1.0], to_voxel @ [*self.across, 0.0], to_voxel @ [*self.down, 0.0],
        ]  # fmt: skip
        (start, across, down) = (np.round(one[:3]).astype(int) for one in found)
        last = start + across * (self.shape[1] - 1) + down * (self.shape[0] - 1)
        exact = found[0] + found[1] * (self.shape[1] - 1) + found[2] * (self.shape[0] - 1)
        off = max(np.abs(found[0][:3] - start).max(), np.abs(exact[:3] - last).max())
        corners = np.array([start, last])
        if off > _TOLERANCE or (corners < 0).any() or (corners >= array.shape).any():
            raise InputError(
                "the DICOM series is not on the grid of the image that was translated: give the series that it was "
                "converted from, and translate it as it was converted"
            )
        i, j = np.ogrid[: self.shape[0], : self.shape[1]]
        x, y, z = (start[axis] + down[axis] * i + across[axis] * j for axis in range(3))
        return array[x, y, z]


def check_dicom(folder: Path, source: Path | None) -> None:
    """Check that a series can be written: before anything is computed.

    Raises:
        InputError: if pydicom or highdicom is not installed, something stands where the series goes, or the source's is
            none.
    """
    try:
        import highdicom  # noqa: F401
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError("--dicom needs pydicom and highdicom: pip install 'scansynth[dicom]'") from error
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is there already: choose another --dicom, a folder that is not there or empty")
    if source:
        read_planes(source)


def write_dicom(synthesis: Synthesis, folder: Path, *, source: Path | None = None) -> list[Path]:
    """Write an image, and its deviation and intervals where it has them, as DICOM.

    Args:
        synthesis: of which single samples and hypothetical maps are not written.
        folder: for the files; all appear at once, or none.
        source: folder with the DICOM series that the first source was converted from.

    Returns:
        The files.

    Raises:
        InputError: if the source's series is none or lies on another grid, or the folder cannot be written or is not
            empty.
    """
    check_dicom(folder, source)
    from pydicom.uid import generate_uid

    affine, shape = synthesis.like.affine, synthesis.array.shape
    planes = read_planes(source) if source else own_planes(affine, shape)
    if len(planes) * planes[0].shape[0] * planes[0].shape[1] != synthesis.array.size:
        raise InputError(f"{source}: {len(planes)} slices are not all of the image that was translated")
    stored = np.stack([plane.of(synthesis.array, affine) for plane in planes])
    shared = _shared(synthesis, planes)
    series = generate_uid()
    images = [
        _slice(synthesis, shared, plane=plane, number=number, series=series)
        for number, plane in enumerate(planes, 1)
    ]  # fmt: skip
    _fill(images, stored, hounsfield=shared["Modality"] == "CT")
    objects = {f"{number:04d}.dcm": image for number, image in enumerate(images, 1)}
    maps = {"deviation": synthesis.deviation} if synthesis.deviation is not None else {}
    maps |= {f"interval-{100 * level:g}": width for level, width in synthesis.intervals.items()}
    for number, (name, array) in enumerate(maps.items(), 1):
        frames = np.stack([plane.of(array, affine) for plane in planes])
        objects[f"{name}.dcm"] = _map(synthesis, images, frames, name=name, number=number)
    temporary = place_beside(folder.absolute())
    try:
        with writing(folder):
            temporary.mkdir(parents=True)
            for name, one in objects.items():
                one.save_as(temporary / name, enforce_file_format=True)
            if folder.is_dir():
                folder.rmdir()
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in objects]


def read_planes(folder: Path) -> list[Plane]:
    """The slices of a DICOM series, in the order in which they lie.

    Raises:
        InputError: if the folder holds no series, several, or one whose slices state no place, or are not parallel.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    read: dict[Path, Dataset] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not file.is_file():
            continue
        with reading(file), contextlib.suppress(InvalidDicomError):
            one = dcmread(file, stop_before_pixels=True)
            one.decode()
            if "SeriesInstanceUID" in one:
                read[file] = one
    found = list(read.values())
    if not found:
        raise InputError(f"{folder}: no DICOM series: give the folder of the one that the source was converted from")
    if len({str(one.SeriesInstanceUID) for one in found}) > 1:
        raise InputError(f"{folder}: several DICOM series: give a folder of the one that the source was converted from")
    wanted = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "Rows",
        "Columns",
        "FrameOfReferenceUID",
    )
    if missing := sorted({name for name in wanted for one in found if not one.get(name)}):
        raise InputError(
            f"{folder}: its files state no {missing[0]}: give a series of single slices, not an enhanced one"
        )
    planes = []
    for file, one in read.items():
        with reading(file):
            planes.append(_plane(one))
    normal = np.cross(planes[0].across, planes[0].down)
    first = planes[0]
    for plane in planes:
        if plane.shape != first.shape or not np.allclose(
            [plane.across, plane.down], [first.across, first.down], atol=1e-4
        ):
            raise InputError(f"{folder}: its slices are not parallel or of one size: give one series of one stack")
    planes.sort(key=lambda plane: float(plane.position @ normal))
    places = [float(plane.position @ normal) for plane in planes]
    if len(places) > 1 and np.diff(places).min() < 1e-3 * np.linalg.norm(normal):
        raise InputError(f"{folder}: two slices lie in one place (echoes, phases?): give a series of one stack")
    apart = float(np.diff(places).min() / np.linalg.norm(normal)) if len(places) > 1 else 1.0
    return [plane if plane.thickness else replace(plane, thickness=apart) for plane in planes]


def _plane(one: "Dataset") -> Plane:
    """A slice; what its header says of its place is no number: ValueError, TypeError."""
    plane = Plane(
        position=np.array(one.ImagePositionPatient, float),
        across=np.array(one.ImageOrientationPatient[:3], float) * float(one.PixelSpacing[1]),
        down=np.array(one.ImageOrientationPatient[3:], float) * float(one.PixelSpacing[0]),
        shape=(int(one.Rows), int(one.Columns)),
        thickness=float(one.get("SliceThickness") or 0),
        source=one,
    )
    places = np.array([plane.position, plane.across, plane.down])  # of three numbers each
    if not np.isfinite(places).all() or not np.cross(plane.across, plane.down).any():
        raise ValueError("its place in space is none")
    for name in _KEPT:  # read when they are asked for
        one.get(name)
    return plane


def own_planes(affine: np.ndarray, shape: Sequence[int]) -> list[Plane]:
    """Axial planes of an RAS+ grid as they are looked at: rows to the patient's left, columns to the back.

    Args:
        affine: (4, 4), voxel → mm in RAS+.
        shape: (X, Y, Z).

    Raises:
        InputError: if rows and columns are not at right angles, which DICOM has no form for.
    """
    lps = _LPS @ affine
    across, down = -lps[:3, 0], -lps[:3, 1]
    if abs(across @ down) > _SKEW * np.linalg.norm(across) * np.linalg.norm(down):
        raise InputError("the image's axes are sheared, which DICOM cannot state: leave out --dicom, or resample it")
    corner = [shape[0] - 1, shape[1] - 1]
    normal = np.cross(across, down)
    thickness = float(abs(lps[:3, 2] @ normal) / np.linalg.norm(normal))
    size = shape[1], shape[0]
    return [
        Plane(position=(lps @ [*corner, z, 1])[:3], across=across, down=down, shape=size, thickness=thickness)
        for z in range(shape[2])
    ]


def _shared(synthesis: Synthesis, planes: Sequence[Plane]) -> dict[str, Any]:
    """What all slices say of patient, study, series and frame of reference."""
    from pydicom.uid import generate_uid

    like = planes[0].source
    told: dict[str, Any] = dict.fromkeys(_KEPT, "")
    told |= {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    if like is not None:
        told |= {name: like[name].value for name in _KEPT if like.get(name) is not None}
    for name in ("IssuerOfPatientID", "StudyDescription"):  # which are not there rather than empty
        if not told[name]:
            del told[name]
    return {**told, "Modality": "CT" if synthesis.provenance["target"] == "CT" else "MR"}


def _slice(synthesis: Synthesis, shared: Mapping[str, Any], *, plane: Plane, number: int, series: str) -> "Dataset":
    """A slice of the series, without its pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    ct = shared["Modality"] == "CT"
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 192"
    for name, value in shared.items():
        setattr(one, name, value)
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage if ct else MRImageStorage, generate_uid()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
        one.SOPClassUID,
        one.SOPInstanceUID,
    )
    one.SeriesInstanceUID, one.SeriesNumber, one.InstanceNumber = series, 9000, number
    one.Laterality = ""  # asked for where the part of the body is not stated
    one.SeriesDescription = f"SYNTHETIC {synthesis.provenance['target']} (scansynth). Not a scan."[:64]
    one.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if ct else "OTHER"]
    one.Manufacturer, one.ManufacturerModelName = "scansynth", str(synthesis.provenance.get("method", ""))
    one.SoftwareVersions = scansynth.__version__
    one.ImagePositionPatient = [_decimal(value) for value in plane.position]
    across, down = (step / np.linalg.norm(step) for step in (plane.across, plane.down))
    one.ImageOrientationPatient = [_decimal(value) for value in (*across, *down)]
    one.PixelSpacing = [_decimal(np.linalg.norm(plane.down)), _decimal(np.linalg.norm(plane.across))]
    one.Rows, one.Columns = plane.shape
    one.SliceThickness = _decimal(plane.thickness)
    one.AcquisitionNumber = None
    if ct:
        one.KVP = None
    else:  # research mode: no sequence made it; the others are asked for, and not known
        one.ScanningSequence, one.SequenceVariant, one.ScanOptions, one.MRAcquisitionType = "RM", "NONE", "", ""
        one.EchoTime = one.RepetitionTime = one.EchoTrainLength = None
    one.BurnedInAnnotation, one.LossyImageCompression = "NO", "00"
    _mark(one, synthesis)
    if plane.source is not None:
        one.SourceImageSequence = [_reference(plane.source)]
    return one


def _mark(one: "Dataset", synthesis: Synthesis) -> None:
    """Say that an object is synthetic, of what, and by which program."""
    from pydicom.dataset import Dataset

    told = synthesis.provenance
    weights = str(told.get("weights", {}).get("sha256", ""))
    one.SyntheticData = "YES"
    one.DerivationDescription = (
        f"{NOTICE} {told['target']} made of {', '.join(told.get('sources', {}))} by {told.get('method')}, run "
        f"{told.get('run')}, weights SHA-256 {weights}, seed {told.get('seed')}; scansynth {scansynth.__version__}"
    )[:1024]
    one.ImageComments = NOTICE
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName = "scansynth", str(told.get("method", ""))
    equipment.SoftwareVersions = scansynth.__version__
    equipment.ContributionDescription = "Synthesis by a generative model"
    one.ContributingEquipmentSequence = [equipment]


def _fill(images: Sequence["Dataset"], stored: np.ndarray, *, hounsfield: bool) -> None:
    """Put the pixels in: CT in whole HU, MR in 16 bits with the slope that brings its unit back.

    Args:
        images: a slice each.
        stored: (slices, rows, columns) in the target's unit.
        hounsfield: whether that is HU.
    """
    low = 0.0 if hounsfield else min(0.0, float(stored.min()))
    slope = 1.0 if hounsfield else float(stored.max() - low) / 65535 or 1.0
    slope = float(_decimal(slope))  # as it is written
    kind = np.int16 if hounsfield else np.uint16
    whole = np.round((stored - low) / slope)
    whole = np.clip(whole, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)  # MR: rounding of the slope alone
    for one, pixels in zip(images, whole, strict=True):
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
        one.PixelRepresentation = int(hounsfield)
        one.RescaleIntercept, one.RescaleSlope = _decimal(low), _decimal(slope)
        one.RescaleType = "HU" if hounsfield else "US"
        high = float(np.percentile(stored, 99.5))
        center, width = (40, 400) if hounsfield else ((low + high) / 2, max(high - low, slope))
        one.WindowCenter, one.WindowWidth = _decimal(center), _decimal(width)
        one.VOILUTFunction = "LINEAR_EXACT"  # LINEAR takes no width below 1
        one.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def _map(synthesis: Synthesis, images: Sequence["Dataset"], frames: np.ndarray, *, name: str, number: int) -> "Dataset":
    """A Parametric Map on the planes of a series, (slices, rows, columns) float32."""
    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.coding import Code
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    hounsfield = synthesis.provenance["target"] == "CT"
    unit = Code("[hnsf'U]", "UCUM", "Hounsfield unit") if hounsfield else Code("1", "UCUM", "no units")
    what = (
        "standard deviation of the samples" if name == "deviation" else f"half the width of the {name[9:]} % interval"
    )
    most = float(frames.max()) or 1.0
    mapping = RealWorldValueMapping(
        lut_label=name[:16].upper(), lut_explanation=what, unit=unit, value_range=(0.0, most),
        slope=1, intercept=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that the source's hospital writes
        one = ParametricMap(
            images,
            np.ascontiguousarray(frames, np.float32),
            series_instance_uid=generate_uid(),
            series_number=9000 + number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="scansynth",
            manufacturer_model_name=str(synthesis.provenance.get("method", "")),
            software_versions=scansynth.__version__,
            device_serial_number="none",
            contains_recognizable_visual_features=True,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[VOILUTTransformation(most / 2, most, voi_lut_function="LINEAR_EXACT")],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="UNCERTAINTY",
            content_description=what,
            series_description=f"SYNTHETIC {synthesis.provenance['target']}: {what}"[:64],
        )
    one.Laterality = ""
    _mark(one, synthesis)
    return one


def _reference(source: "Dataset") -> "Dataset":
    """A reference to a slice that another was made of."""
    from pydicom.dataset import Dataset

    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    one.PurposeOfReferenceCodeSequence = [_code("121322", "Source Image for Image Processing Operation")]
    return one


def _code(value: str, meaning: str) -> "Dataset":
    from pydicom.dataset import Dataset

    one = Dataset()
    one.CodeValue, one.CodingSchemeDesignator, one.CodeMeaning = value, "DCM", meaning
    return one


def _decimal(value: float | np.floating) -> str:
    """A decimal string of at most 16 characters."""
    return f"{float(value) + 0.0:.10g}"  # no −0
