"""Small image files, masks and sidecars of each format, and what damage, programs and hands may make of them.

A file is a dict, name → bytes, whose first name is the one that is opened: MetaImage and NRRD may keep voxels in a
second one. Everything is drawn from one `random.Random`, so that a number says the file again.
"""

import gzip
import json
import math
import random
import zlib
from collections.abc import Callable

import nibabel as nib
import numpy as np

File = dict[str, bytes]
SHAPE = (6, 5, 4)

NUMBERS = (
    0, 1, -1, 2, 3, 5, 6, 7, 8, 14, 31, 56, 255, 256, 347, 348, 351, 352, 353, 540, 543, 544, 1024, 2500, 32767, -32768,
    65535, 2**31 - 1, -(2**31), 2**32, 2**53, 2**62, -(2**63),
)  # fmt: skip
REALS = (0.0, -0.0, 1e-45, 1e-30, 1e-6, 0.5, -1.0, 99.0, 1e6, 1e20, 3e38, -3e38, math.inf, -math.inf, math.nan)
OFTEN = (
    "dim", "pixdim", "vox_offset", "xyzt_units", "datatype", "bitpix", "scl_slope", "scl_inter", "srow_x", "srow_z",
    "quatern_b", "sform_code", "qform_code", "magic", "dims", "type", "delta", "Mdc", "Pxyz_c",
)  # fmt: skip
"""Fields of NIfTI and MGH on which reading hangs."""
KEYS = (
    "HeaderSize =", "CompressedDataSize =", "ElementNumberOfChannels =", "ElementToIntensityFunctionSlope =", "NDims =",
    "DistanceUnits =", "CompressedData =", "BinaryData =", "byte skip:", "line skip:", "data file:", "space units:",
    "min:", "dimension:", "block size:", "centerings:",
)  # fmt: skip
WORDS = (
    "0", "-1", "1", "3", "16", "99999", "2147483648", "99999999999999999999", "1e-45", "3e38", "1e999", "nan", "inf",
    "-inf", "", " ", "none", "True", "False", "LOCAL", "LIST",
    "x%03d.raw 1 9 1", "../x.raw", "/dev/zero", "/etc/passwd",
    ".", "x\0y", "raw", "gzip", "ascii", "hex", "bzip2", "cm", "um", "MET_DOUBLE", "MET_UCHAR_ARRAY", "double", "block",
    "1 1 1", "0 0 0", "2500 2500 2500", "-1 -1 -1", "1 0 0 1 0 0 0 0 1", "nan nan nan", "(1,0,0) (1,0,0) (0,0,1)",
    "(nan,0,0) (0,1,0) (0,0,1)", "none none none", "left-posterior-superior", "scanner-xyz", "é", "ÿ" * 300,
    "9" * 400, "x" * 1990, "7 " * 900,
)  # fmt: skip
JSON = (
    "NaN", "Infinity", "-Infinity", "1e999", "1e-999", "9" * 500, "null", "true", "[]", "{}", '"x"', '"\\ud800"', "-0",
    "[" * 3000, '{"a":' * 3000, "[[1]]", "2300", "0.0", '"' + "é" * 999 + '"',
)  # fmt: skip


def seeds() -> dict[str, Callable[[], File]]:
    """Kind → a whole file of it, which is read; a kind that ends in `-labels` is a mask."""
    array = np.random.default_rng(0).integers(0, 900, SHAPE)
    labels = np.random.default_rng(1).integers(0, 4, SHAPE)
    made = {
        "nifti1": {"x.nii": _nifti(array.astype(np.int16))},
        "nifti1-float": {"x.nii": _nifti(array.astype(np.float32) / 7)},
        "nifti1-big-endian": {"x.nii": _nifti(array.astype(">i2"), endian=">")},
        "nifti1-gzip": {"x.nii.gz": gzip.compress(_nifti(array.astype(np.uint16)), mtime=0)},
        "nifti2": {"x.nii": _nifti(array.astype(np.int32), version=nib.Nifti2Image)},
        "nifti2-gzip": {"x.nii.gz": gzip.compress(_nifti(array.astype(np.float64), version=nib.Nifti2Image), mtime=0)},
        "nifti1-labels": {"x.nii.gz": gzip.compress(_nifti(labels.astype(np.uint8)), mtime=0)},
        "mgh": {"x.mgh": _mgh(array.astype(np.float32))},
        "mgz": {"x.mgz": gzip.compress(_mgh(array.astype(np.int16)), mtime=0)},
        "mgz-labels": {"x.mgz": gzip.compress(_mgh(labels.astype(np.uint8)), mtime=0)},
        "meta": {"x.mha": _meta("MET_SHORT", "LOCAL") + _raw(array, "<i2")},
        "meta-zlib": {"x.mha": _meta("MET_FLOAT", "LOCAL", zlib.compress(_raw(array, "<f4")))},
        "meta-two": {"x.mhd": _meta("MET_USHORT", "x.raw"), "x.raw": _raw(array, "<u2")},
        "meta-two-zlib": {"x.mhd": _meta("MET_INT", "x.zraw", zlib.compress(_raw(array, "<i4"))),
                          "x.zraw": zlib.compress(_raw(array, "<i4"))},
        "meta-labels": {"x.mha": _meta("MET_UCHAR", "LOCAL") + _raw(labels, "u1")},
        "nrrd": {"x.nrrd": _nrrd("short", "raw") + _raw(array, "<i2")},
        "nrrd-gzip": {"x.nrrd": _nrrd("float", "gzip") + gzip.compress(_raw(array, "<f4"), mtime=0)},
        "nrrd-ascii": {"x.nrrd": _nrrd("int", "ascii") + " ".join(map(str, array.T.ravel())).encode()},
        "nrrd-hex": {"x.nrrd": _nrrd("short", "hex") + _raw(array, "<i2").hex().encode()},
        "nrrd-two": {"x.nhdr": _nrrd("ushort", "raw", data="x.raw"), "x.raw": _raw(array, "<u2")},
        "nrrd-two-gzip": {"x.nhdr": _nrrd("double", "gzip", data="x.raw.gz"),
                          "x.raw.gz": gzip.compress(_raw(array, "<f8"), mtime=0)},
        "nrrd-labels": {"x.nrrd": _nrrd("uchar", "raw") + _raw(labels, "u1")},
        "sidecar": {"x.json": json.dumps({
            "RepetitionTime": 2.3, "EchoTime": 0.00298, "InversionTime": 0.9, "FlipAngle": 9, "Manufacturer": "Siemens",
            "ScanOptions": ["PFP", "SFS"], "MagneticFieldStrength": 3, "PatientName": "n/a", "synthetic": False,
        }, indent=1).encode()},
    }  # fmt: skip
    return {kind: (lambda file=file: dict(file)) for kind, file in made.items()}


def draw(rng: random.Random) -> tuple[str, str, File]:
    """A mutated file: of which kind, by which mutations, and its parts."""
    kind = rng.choice(sorted(SEEDS))
    file = SEEDS[kind]()
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(list(file)) if rng.random() < 0.3 else next(iter(file))
        packed = file[name].startswith(b"\x1f\x8b") and rng.random() < 0.8
        try:
            content = gzip.decompress(file[name]) if packed else file[name]
        except (OSError, EOFError, zlib.error):
            packed, content = False, file[name]
        mutation = rng.choice(_for(name))
        if mutation is _bomb and not packed:
            continue
        content = mutation(content, rng)
        file[name] = gzip.compress(content, 1, mtime=0) if packed else content
        done.append(mutation.__name__.strip("_"))
    return kind, "+".join(done), file


def _for(name: str) -> list[Callable[[bytes, random.Random], bytes]]:
    """What may be done to a file of this name; header fields more often than the rest."""
    ending = name.split(".", 1)[1]
    general = [flip, _flip_early, truncate, grow, splice, repeat]
    own = {
        "nii": [_nifti_field], "nii.gz": [_nifti_field, _bomb], "mgh": [_mgh_field], "mgz": [_mgh_field, _bomb],
        "mha": [line], "mhd": [line], "nrrd": [line], "nhdr": [line], "json": [json_value, json_value, line],
    }.get(ending, [])  # fmt: skip
    return general + own * (12 // max(1, len(own)))


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_early(content: bytes, rng: random.Random) -> bytes:
    return flip(content[:600], rng) + content[600:]


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def grow(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((b"\0", b"\xff", b"\n")) * rng.choice((1, 2, 512, 4096, 5000, 70_000))


def _bomb(content: bytes, rng: random.Random) -> bytes:
    """Bytes that the header knows nothing of, thousands of times as many as are in the file."""
    return content + bytes(1 << rng.choice((13, 16, 16, 20, 22)))


def splice(content: bytes, rng: random.Random) -> bytes:
    other = rng.choice(list(SEEDS[rng.choice(sorted(SEEDS))]().values()))
    start, place = rng.randrange(len(other)), rng.randrange(len(content) + 1)
    part = other[start : start + rng.choice((4, 64, 400, 4000))]
    return content[:place] + part + content[place + (len(part) if rng.random() < 0.5 else 0) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A second part, as of a file that was written twice."""
    return content + content[: rng.randrange(len(content) + 1)]


def _nifti_field(content: bytes, rng: random.Random) -> bytes:
    if len(content) < 540:
        return content
    header = nib.Nifti2Header if content[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c") else nib.Nifti1Header
    kind = header.template_dtype
    endian = ">" if content[0] == 0 else "<"
    return _numpy_field(content, kind.newbyteorder(endian), rng)


def _mgh_field(content: bytes, rng: random.Random) -> bytes:
    return _numpy_field(content, nib.MGHImage.header_class._hdrdtype, rng)


def _numpy_field(content: bytes, kind: np.dtype, rng: random.Random) -> bytes:
    """One element of one field of a binary header, set to a value that is seldom thought of."""
    assert kind.fields is not None
    head = np.frombuffer(content[: kind.itemsize].ljust(kind.itemsize, b"\0"), kind).copy()
    names = [name for name in OFTEN if name in kind.fields]
    name = rng.choice(names if rng.random() < 0.8 else list(kind.names or ()))
    field = np.atleast_1d(head[0][name])
    if field.dtype.kind == "f":
        with np.errstate(all="ignore"):
            value = np.array(rng.choice(REALS)).astype(field.dtype)
    elif field.dtype.kind in "iu":
        limits = np.iinfo(field.dtype)
        value = min(max(rng.choice(NUMBERS), int(limits.min)), int(limits.max))
    else:
        value = rng.randbytes(field.dtype.itemsize)
    if field.ndim == 1 and field.size > 1 and rng.random() < 0.3:
        head[name] = value
    elif field.size > 1:
        field.flat[rng.randrange(field.size)] = value
        head[0][name] = field
    else:
        head[name] = value
    return head.tobytes() + content[kind.itemsize :]


def line(content: bytes, rng: random.Random) -> bytes:
    """One line of a text header: another value, without it, twice, elsewhere."""
    text, voxels = content, b""
    for end in (b"LOCAL\n", b"\n\n"):
        if end in content:
            text, voxels = content[: content.index(end) + len(end)], content[content.index(end) + len(end) :]
            break
    lines = text.split(b"\n")
    place = rng.randrange(len(lines))
    what = rng.choice(("value", "value", "value", "value", "drop", "twice", "move", "new"))
    key, sign, _ = lines[place].partition(b"=" if b"=" in lines[place] else b":")
    word = rng.choice(WORDS).encode("latin-1")
    if what == "value" and sign:
        lines[place] = key + sign + b" " + word
    elif what == "drop":
        del lines[place]
    elif what == "twice":
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif what == "move":
        lines.insert(rng.randrange(len(lines)), lines.pop(place))
    else:
        lines.insert(place, rng.choice(KEYS).encode() + b" " + word)
    return b"\n".join(lines) + voxels


def json_value(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    key, sign, _ = lines[place].partition(b":")
    if not sign:
        return rng.choice(JSON).encode()
    lines[place] = key + b": " + rng.choice(JSON).encode() + b","
    return b"\n".join(lines)


def _affine() -> np.ndarray:
    affine = np.array([[-0.9, 0.1, 0, 40], [0.1, 1.1, 0.05, -30], [0, -0.05, 3, 10], [0, 0, 0, 1.0]])
    axes, _ = np.linalg.qr(affine[:3, :3])
    affine[:3, :3] = axes * (0.9, 1.1, 3.0)
    return affine


def _nifti(array: np.ndarray, *, version: type = nib.Nifti1Image, endian: str = "<") -> bytes:
    header = version.header_class(endianness=endian)
    header.set_xyzt_units("mm", "sec")
    header.set_data_dtype(array.dtype)
    image = version(array, _affine(), header)
    image.set_qform(_affine(), 1)
    image.set_sform(_affine(), 1)
    return image.to_bytes()


def _mgh(array: np.ndarray) -> bytes:
    return nib.MGHImage(array, _affine()).to_bytes()


def _raw(array: np.ndarray, kind: str) -> bytes:
    return np.ascontiguousarray(array.T).astype(kind).tobytes()


def _meta(kind: str, data: str, compressed: bytes = b"") -> bytes:
    """A header; where compressed voxels follow it, those too."""
    size = f"True\nCompressedDataSize = {len(compressed)}" if compressed else "False"
    sides = " ".join(map(str, SHAPE))
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = {size}\n"
        "TransformMatrix = 1 0 0 0 0.6 0.8 0 -0.8 0.6\nOffset = -10 4.5 3\nCenterOfRotation = 0 0 0\n"
        f"AnatomicalOrientation = RAI\nElementSpacing = 0.9 1.1 3\nDimSize = {sides}\nElementType = {kind}\n"
        f"ElementDataFile = {data}\n"
    ).encode() + (compressed if data == "LOCAL" else b"")


def _nrrd(kind: str, encoding: str, *, data: str = "") -> bytes:
    sides = " ".join(map(str, SHAPE))
    return (
        f"NRRD0004\n# a comment\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sides}\n"
        "space directions: (0.9,0,0) (0,1.1,0.1) (0,-0.1,3)\nkinds: domain domain domain\nendian: little\n"
        f"encoding: {encoding}\nspace origin: (-10,4.5,3)\n{f'data file: {data}' if data else ''}\n"
    ).encode()


def held(file: File) -> int:
    """Bytes that a file truly holds, what is compressed in it unpacked; of a stream that is damaged, to there."""
    total = 0
    for content in file.values():
        ends = [content.find(end) + len(end) for end in (b"LOCAL\n", b"\n\n") if end in content[: 1 << 20]]
        total += len(content) + max(_unpacked(content[start:]) for start in (0, *ends))
    return total


def _unpacked(content: bytes) -> int:
    unpack, total = zlib.decompressobj(wbits=47), 0
    try:
        for start in range(0, len(content), 1 << 14):
            waiting = content[start : start + (1 << 14)]
            while waiting and not unpack.eof:
                total += len(unpack.decompress(waiting, 1 << 20))
                waiting = unpack.unconsumed_tail
            if unpack.eof:
                break
    except zlib.error:
        pass
    return total


SEEDS = seeds()
