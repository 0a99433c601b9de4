"""Files that claim what they do not hold, that never end, or that no scanner makes: one line each, little memory."""

import gzip
import json
import logging
import os
import re
import signal
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fuzz.mutations import SEEDS
from scansynth.cli import main
from scansynth.config import read_yaml
from scansynth.data.acquisitions import read_sidecar, read_table
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.readers import read_labels, reading
from scansynth.data.readers.content import Content
from scansynth.data.sources import as_volume
from scansynth.data.text_table import read_rows
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.synthesis.contrast_table import check_table
from scansynth.synthesis.image import content_of
from scansynth.synthesis.writers.nifti import marks_of
from scansynth.users_files import MOST_TEXT, open_file, read_bytes, read_json

READS = [Volume.read, read_labels]
MB = 1 << 20


@pytest.fixture(autouse=True)
def in_time():
    """What waits for ever fails after ten seconds."""

    def stop(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(folder, kind, change=lambda content: content):
    """A whole file of a kind (`fuzz.mutations.SEEDS`) with its first part changed; its path."""
    if kind.startswith(("meta", "nrrd")):
        pytest.importorskip("SimpleITK")
    first, *_ = file = SEEDS[kind]()
    file[first] = change(file[first])
    for name, content in file.items():
        (folder / name).write_bytes(content)
    return folder / first


def refused(path, reason, read=Volume.read):
    """The message, of one line with the file and the reason."""
    with pytest.raises(InputError, match=reason) as caught:
        read(path)
    message = str(caught.value)
    assert str(path.parent) in message
    assert "\n" not in message
    assert ": " in message
    return message


def with_fields(**fields):
    """A change of NIfTI headers; a field and what it is set to."""

    def change(content):
        version = nib.Nifti2Header if content[:1] == b"\x1c" else nib.Nifti1Header
        head = np.frombuffer(content[: version.sizeof_hdr], version.template_dtype.newbyteorder("<")).copy()
        for name, value in fields.items():
            head[0][name] = value
        return head.tobytes() + content[version.sizeof_hdr :]

    return change


def with_line(old, new):
    return lambda content: re.sub(rb"(?m)^" + old + rb"[^\n]*\n", new, content, count=1)


# Memory by a header's word


CLAIMS = {
    "nifti1": ("nifti1", with_fields(dim=[3, 2000, 2000, 400, 1, 1, 1, 1])),
    "nifti2": ("nifti2", with_fields(dim=[3, 2000, 2000, 400, 1, 1, 1, 1])),
    "nifti2 beyond 64 bits": ("nifti2", with_fields(dim=[3, 2**62, 2**62, 2**62, 1, 1, 1, 1])),
    "gzip": ("nifti1-gzip", lambda data: gzip.compress(
        with_fields(dim=[3, 2000, 2000, 400, 1, 1, 1, 1])(gzip.decompress(data)), mtime=0)),
    "offset": ("nifti1", with_fields(vox_offset=3e9)),
    "mgh": ("mgh", lambda data: data[:4] + struct.pack(">3i", 2000, 2000, 400) + data[16:]),
    "mgz": ("mgz", lambda data: gzip.compress(
        gzip.decompress(data)[:4] + struct.pack(">3i", 2000, 2000, 400) + gzip.decompress(data)[16:], mtime=0)),
    **{kind: (kind, with_line(b"DimSize", b"DimSize = 2000 2000 400\n"))
       for kind in ("meta", "meta-zlib", "meta-two", "meta-two-zlib")},
    **{kind: (kind, with_line(b"sizes", b"sizes: 2000 2000 400\n"))
       for kind in ("nrrd", "nrrd-gzip", "nrrd-ascii", "nrrd-hex", "nrrd-two", "nrrd-two-gzip")},
    "compressed size": (
        "meta-zlib", with_line(b"CompressedDataSize", b"CompressedDataSize = 3000000000\n")),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("read", READS)
def test_what_a_header_claims_alone_takes_no_memory(tmp_path, claim, read):
    path = put(tmp_path, *CLAIMS[claim])
    tracemalloc.start()
    try:
        refused(path, "truncated|corrupt|GB of memory|cannot be right", read)
        assert tracemalloc.get_traced_memory()[1] < 8 * MB
    finally:
        tracemalloc.stop()


def test_the_address_space_is_not_taken_either(tmp_path):
    """What numpy and ITK map but do not touch is no memory that tracemalloc or the kernel counts."""
    resource = pytest.importorskip("resource")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    paths = []
    for number, claim in enumerate(CLAIMS):
        (tmp_path / str(number)).mkdir()
        paths.append(put(tmp_path / str(number), *CLAIMS[claim]))
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 400 * MB, before[1]))
    try:
        for path in paths:
            assert "more memory than there is" not in refused(path, ": ")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", [
    "nifti1-gzip", "nifti2-gzip", "nifti1-labels", "mgz", "nrrd-gzip", "nrrd-two-gzip", "meta-zlib", "meta-two-zlib",
])  # fmt: skip
def test_what_a_file_unpacks_to_beyond_its_header_is_not_unpacked(tmp_path, kind):
    path = put(tmp_path, kind)
    held = path if path.suffix in (".gz", ".mgz", ".nrrd", ".mha") else next(tmp_path.glob("x.*raw*"))
    content = held.read_bytes()
    head = re.match(rb"(?s).*?(LOCAL\n|\n\n)", content).group() if held.suffix in (".nrrd", ".mha") else b""
    unpacked = zlib.decompress(content[len(head) :], wbits=47)
    pack = zlib.compress if "zlib" in kind else gzip.compress
    packed = pack(unpacked + bytes(64 * MB))
    held.write_bytes(head + packed)
    if "zlib" in kind:
        put_size = with_line(b"CompressedDataSize", b"CompressedDataSize = %d\n" % len(packed))
        path.write_bytes(put_size(path.read_bytes()))
    tracemalloc.start()
    try:
        refused(path, "more bytes than its header says")
        assert tracemalloc.get_traced_memory()[1] < 16 * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "block"), [
    ("nifti1", 4096), ("nifti2", 4096), ("mgh", 1 << 20), ("meta", 0), ("nrrd", 0), ("meta-two", 0), ("nrrd-two", 0),
])  # fmt: skip
def test_bytes_that_the_header_knows_nothing_of_are_refused(tmp_path, kind, block):
    """ITK's formats say no place where voxels begin: with a byte more, all may stand a byte further."""
    path = put(tmp_path, kind)
    held = tmp_path / "x.raw" if kind.endswith("two") else path
    content = held.read_bytes()
    held.write_bytes(content + bytes(max(0, block - 100)))
    Volume.read(path)
    held.write_bytes(content + bytes(block + 1))
    refused(path, "more bytes than its header says")


def test_a_scan_beyond_the_machines_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = put(tmp_path, "nifti1")
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 1000}[name])
    refused(path, "GB of memory, this machine has")


def test_parts_and_padding_of_gzip_are_read_and_empty_ones_are_no_hang(tmp_path):
    data = SEEDS["nifti1"]()["x.nii"]
    whole = Volume.read(put(tmp_path, "nifti1")).array
    parts = [gzip.compress(data[start : start + 100], mtime=0) for start in range(0, len(data), 100)]
    (tmp_path / "parts.nii.gz").write_bytes(b"".join(parts) + bytes(600))
    np.testing.assert_array_equal(Volume.read(tmp_path / "parts.nii.gz").array, whole)
    (tmp_path / "parts.nii.gz").write_bytes(b"".join(parts) + b"more")
    refused(tmp_path / "parts.nii.gz", "truncated or corrupt")
    (tmp_path / "empty.nii.gz").write_bytes(gzip.compress(b"", mtime=0) * 100_000)
    refused(tmp_path / "empty.nii.gz", "truncated or corrupt")
    for kept in range(len(parts[1])):
        (tmp_path / "cut").write_bytes(parts[0] + parts[1][:kept])
        with open_file(tmp_path / "cut") as file:
            content = Content(tmp_path / "cut", file)
            if kept:
                with pytest.raises(InputError, match="truncated or corrupt"):
                    content.read(1000)
            else:
                assert content.read(1000) == data[:100]


# What no scanner makes and no format has


IMPOSSIBLE = {
    "units": (with_fields(xyzt_units=6), "code that NIfTI does not have"),
    "offset 0": (with_fields(vox_offset=0), "vox_offset is 0"),
    "offset inf": (with_fields(vox_offset=np.inf), "vox_offset is inf"),
    "offset nan": (with_fields(vox_offset=np.nan), "vox_offset is nan"),
    "offset between": (with_fields(vox_offset=352.5), "vox_offset is 352.5"),
    "offset in the header": (with_fields(vox_offset=348), "vox_offset is 348"),
    "negative side": (with_fields(dim=[3, -6, 5, 4, 1, 1, 1, 1]), "dim is 3 -6 5"),
    "a vector of FreeSurfer": (with_fields(dim=[3, -1, 1, 1, 1, 1, 1, 1], glmin=120), "dim is 3 -1 1"),
    "no axes": (with_fields(dim=[0, 6, 5, 4, 1, 1, 1, 1]), "dim is 0 6 5|cannot be right"),
    "too many axes": (with_fields(dim=[9, 6, 5, 4, 1, 1, 1, 1]), "dim is 9 6 5|cannot be right"),
    "kind of voxel": (with_fields(datatype=7), "datatype is 7"),
    "scaled by infinity": (with_fields(scl_slope=np.inf), "scaled by inf"),
    "shifted by infinity": (with_fields(scl_slope=1, scl_inter=-np.inf), "scaled by 1 and -inf"),
    "sform nan": (with_fields(srow_x=[np.nan, 0, 0, 0]), "spans no volume"),
    "sform 0": (with_fields(srow_x=0, srow_y=0, srow_z=0), "spans no volume"),
    "one plane": (with_fields(srow_x=[1, 1, 0, 0], srow_y=[1, 1.0001, 0, 0]), "axes in one plane"),
    "tiny": (with_fields(srow_x=[1e-45, 0, 0, 0], srow_y=[0, 1e-45, 0, 0], srow_z=[0, 0, 1e-45, 0]), "no scanner"),
    "huge": (with_fields(srow_x=[3e38, 0, 0, 0], srow_y=[0, 3e38, 0, 0], srow_z=[0, 0, 3e38, 0]), "no scanner"),
    "µm as mm": (with_fields(srow_x=[900, 0, 0, 0], srow_y=[0, 900, 0, 0], srow_z=[0, 0, 900, 0]), "above 100 mm"),
    "far": (with_fields(srow_x=[1, 0, 0, 1e20]), "km off"),
    "pixdim tiny": (with_fields(sform_code=0, pixdim=[1, 1e-40, 1e-40, 1e-40, 0, 0, 0, 0]), "no scanner"),
    "quaternion": (with_fields(sform_code=0, quatern_b=np.nan), "cannot be right|spans no volume"),
    "quaternion too long": (with_fields(sform_code=0, quatern_b=3e38), "cannot be right|spans no volume"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
@pytest.mark.parametrize("read", READS)
def test_a_header_that_cannot_be_right_is_refused_of_scans_and_labels(tmp_path, what, read):
    change, reason = IMPOSSIBLE[what]
    refused(put(tmp_path, "nifti1", change), reason, read)


@pytest.mark.parametrize(("change", "reason"), [
    (with_fields(dim=[3, -6, 5, 4, 1, 1, 1, 1]), "dim is 3 -6 5"), (with_fields(vox_offset=0), "vox_offset is 0"),
    (with_fields(vox_offset=-(2**63)), "vox_offset is -9"),
    (with_fields(dim=[2**40, 6, 5, 4, 1, 1, 1, 1]), "cannot be"),
    (with_fields(srow_x=1e300), "no scanner"),
])  # fmt: skip
def test_nifti_2_likewise(tmp_path, change, reason):
    refused(put(tmp_path, "nifti2", change), reason)


def test_a_unit_of_time_that_is_not_known_says_nothing_of_a_scan(tmp_path):
    Volume.read(put(tmp_path, "nifti1", with_fields(xyzt_units=2 | 56)))


@pytest.mark.parametrize(("smallest", "largest"), [(0.001, 0.001), (100.0, 100.0), (0.2, 50.0)])
def test_what_scanners_make_is_read(tmp_path, smallest, largest):
    change = with_fields(srow_x=[smallest, 0, 0, 0], srow_y=[0, smallest, 0, 0], srow_z=[0, 0, largest, 0])
    np.testing.assert_allclose(Volume.read(put(tmp_path, "nifti1", change)).spacing, (smallest, smallest, largest))


META = {
    "axes": (with_line(b"NDims", b"NDims = 3e38\n"), "ndims"),
    "no axes": (with_line(b"NDims", b"NDims = -1\n"), "ndims"),
    "eleven axes": (with_line(b"NDims", b"NDims = 11\n"), "ndims"),
    "spacings": (with_line(b"ElementSpacing", b"ElementSpacing =" + b" 1" * 999 + b"\n"), "elementspacing"),
    "matrix": (with_line(b"TransformMatrix", b"TransformMatrix = 1 0 0\n"), "transformmatrix"),
    "a long key": (with_line(b"CenterOf", b"K" * 600 + b" = 1\n"), "line in its header"),
    "a long value": (with_line(b"CenterOf", b"Comment = " + b"x" * 9000 + b"\n"), "line in its header"),
    "no sign": (with_line(b"CenterOf", b"something\n"), "line in its header"),
    "twice": (with_line(b"CenterOf", b"DimSize = 1 1 1\n"), "dimsize twice"),
    "type": (with_line(b"ElementType", b"ElementType = MET_OTHER\n"), "elementtype"),
    "skip": (with_line(b"CenterOf", b"HeaderSize = 7\n"), "HeaderSize"),
}


@pytest.mark.parametrize("what", META)
def test_headers_that_would_end_the_process_in_metaio_are_refused(tmp_path, what):
    change, reason = META[what]
    refused(put(tmp_path, "meta", change), reason)


def test_nrrd_as_text_is_what_its_header_says(tmp_path):
    for kind, good in (("nrrd-ascii", "nrrd"), ("nrrd-hex", "nrrd")):
        for name in ("a", "b"):
            (tmp_path / kind / name).mkdir(parents=True)
        expected = Volume.read(put(tmp_path / kind / "a", good)).array
        np.testing.assert_array_equal(Volume.read(put(tmp_path / kind / "b", kind)).array, expected)
        for wrong in (b"\xff" * 4096, b" 7", b" x"):  # the first wrote beyond NrrdIO's buffer
            path = put(tmp_path / kind / "b", kind)
            path.write_bytes(path.read_bytes() + wrong)
            refused(path, "truncated or corrupt")


def test_voxels_of_another_folder_are_nobodys_to_name(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for kind, line in (("meta-two", b"ElementDataFile = %s\n"), ("nrrd-two", b"data file: %s\n\n")):
        key = line[:9]
        raw = SEEDS[kind]()["x.raw"]
        for place in (tmp_path / "x.raw", tmp_path / "in" / "sub" / "x.raw"):
            place.write_bytes(raw)
        for name in (b"x" * 400, b"x\0.raw"):
            refused(put(tmp_path / "in", kind, with_line(key, line % name)), "is not beside it|cannot be right")
        for name in (b"../x.raw", bytes(tmp_path / "x.raw"), b"sub/../../x.raw"):
            refused(put(tmp_path / "in", kind, with_line(key, line % name)), "not in its folder: put both there")
        path = put(tmp_path / "in", kind)
        whole = Volume.read(path).array
        (tmp_path / "in" / "x.raw").unlink()
        put(tmp_path / "in", kind, with_line(key, line % b"sub/x.raw"))
        (tmp_path / "in" / "x.raw").unlink()
        np.testing.assert_array_equal(Volume.read(path).array, whole)


# Pipes, devices, folders


OPENERS = {
    **{f"x{ending}": read for ending in (".nii", ".nii.gz", ".mgz", ".mha", ".nrrd", ".hdr") for read in READS},
    "splits.json": read_json, "x.json": read_sidecar,
    "participants.tsv": lambda path: read_rows(path, ("participant_id",)),
    "acquisition.csv": read_table, "settings.yaml": read_yaml, "bytes": read_bytes,
    "as.nii": as_volume,
}  # fmt: skip


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("what", ["pipe", "link to a pipe", "device", "folder"])
def test_only_regular_files_are_opened(tmp_path, name, what):
    pytest.importorskip("SimpleITK")
    path, reason = tmp_path / name, "is a pipe, a device or a socket, not a file"
    if what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
        reason = "is a folder"
    else:
        os.mkfifo(tmp_path / "pipe" if what != "pipe" else path)
        if what != "pipe":
            path.symlink_to(tmp_path / "pipe")
    refused(path, reason, OPENERS[name])


def test_voxels_beside_a_header_that_are_a_pipe_are_not_waited_for(tmp_path):
    for kind in ("meta-two", "nrrd-two"):
        path = put(tmp_path, kind)
        (tmp_path / "x.raw").unlink()
        os.mkfifo(tmp_path / "x.raw")
        refused(path, "is a pipe")
        (tmp_path / "x.raw").unlink()


def test_what_only_asks_whether_a_file_is_ours_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    os.mkfifo(tmp_path / "x.nii")
    os.mkfifo(tmp_path / "contrasts.tsv")
    assert content_of(tmp_path / "x.json") == {}
    assert marks_of(tmp_path / "x.nii") == []
    with pytest.raises(InputError, match="no table of this program"):
        check_table(tmp_path / "contrasts.tsv")


def test_a_text_without_end_is_not_read(tmp_path):
    with (tmp_path / "participants.tsv").open("wb") as file:
        file.truncate(MOST_TEXT + 1)
    refused(tmp_path / "participants.tsv", "more than 67 MB", read_bytes)
    refused(tmp_path / "a\0b.nii", "names no file", lambda path: read_bytes(path))


# JSON


@pytest.mark.parametrize("text", [
    b'{"RepetitionTime": NaN}', b'{"RepetitionTime": Infinity}', b'{"EchoTime": -1e999}',
    b'{"EchoTime": 1%s}' % (b"0" * 400), b"[" * 100_000, b'{"a":' * 100_000, b"[1, 2]", b"7", b'"x"', b"null", b"",
    b'{"FlipAngle": {"x": 1}}', b"\xff\xfe{\0}\0", b'{"ScanOptions": [[1]]}',
])  # fmt: skip
def test_a_sidecar_that_nobody_else_could_read_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    refused(tmp_path / "x.json", "x.json.*: (mend|save)", read_sidecar)


def test_times_of_a_table_that_are_no_numbers_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("contrast,RepetitionTime\nT1w,nan\n")
    refused(tmp_path / "x.csv", "RepetitionTime nan is no finite number", read_table)


# The boundary, and a cohort


def test_whatever_is_raised_names_the_file_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="scansynth")
    for error, words in ((KeyError(6), "KeyError: 6"), (MemoryError(), "more memory than there is"),
                         (ValueError("a\nb"), "ValueError: a b"), (RecursionError(), "RecursionError")):  # fmt: skip

        def fail(path, error=error):
            with reading(path):
                raise error

        refused(tmp_path / "x.nii", words, fail)
    assert "KeyError: 6" in caplog.text  # its traceback, for who asks
    with pytest.raises(KeyboardInterrupt), reading(tmp_path):
        raise KeyboardInterrupt


def units(folder):
    path = folder / "sub-002_T2w.nii.gz"
    path.write_bytes(gzip.compress(with_fields(xyzt_units=6)(gzip.decompress(path.read_bytes()))))


def claims(folder):
    path = folder / "sub-002_T2w.nii.gz"
    dim = [3, 2500, 2500, 2500, 1, 1, 1, 1]
    path.write_bytes(gzip.compress(with_fields(dim=dim)(gzip.decompress(path.read_bytes()))))


def pipe(folder):
    (folder / "sub-002_T2w.nii.gz").unlink()
    os.mkfifo(folder / "sub-002_T2w.nii.gz")


def sidecar(folder):
    (folder / "sub-002_T2w.json").write_text('{"RepetitionTime": NaN}')


def sidecar_pipe(folder):
    (folder / "sub-002_T2w.json").unlink()
    os.mkfifo(folder / "sub-002_T2w.json")


@pytest.mark.parametrize("spoil", [units, claims, pipe, sidecar, sidecar_pipe])
def test_one_bad_file_is_foreseen_named_and_left_out(tmp_path, capsys, spoil):
    write_phantom_cohort(tmp_path / "in", 4, ("T1w", "T2w"), layout="BIDS", shape=(24, 24, 8), spacing=8.0)
    spoil(tmp_path / "in" / "sub-002" / "anat")
    words = ["prepare", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--size", "32", "32", "None"]
    for options in (["--dry-run"], []):
        assert main([*words, *options]) == 1
        said = capsys.readouterr()
        assert "sub-002_T2w" in said.out + said.err
    assert main([*words, "--dry-run", "--skip-bad"]) == 0
    assert main([*words, "--skip-bad"]) == 0
    cohort = Cohort.open(tmp_path / "out")
    assert {name: sorted(json.loads((tmp_path / "out" / "cohort.json").read_text())["subjects"][name]["scans"])
            for name in cohort.subjects()}["sub-002"] == ["T1w"]  # fmt: skip
    assert len(cohort.subjects()) == 4


def test_a_mask_that_cannot_be_read_is_foreseen(tmp_path, capsys):
    for number in range(3):
        folder = tmp_path / "in" / f"BraTS2021_0000{number}"
        folder.mkdir(parents=True)
        for kind, seed in (("t1", "nifti1-gzip"), ("seg", "nifti1-labels")):
            (folder / f"{folder.name}_{kind}.nii.gz").write_bytes(SEEDS[seed]()["x.nii.gz"])
    bad = folder / f"{folder.name}_seg.nii.gz"
    assert find_subjects(tmp_path / "in").subjects[2].masks["seg"] == bad
    bad.write_bytes(gzip.compress(with_fields(srow_x=np.nan)(gzip.decompress(bad.read_bytes()))))
    main(["prepare", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"problem: {bad} has an affine that spans no volume" in said
