"""Parts of the report that need no page: packed volumes, scripts, the vendored viewer, curves."""

import base64
import gzip
import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from scansynth.evaluation.shown import Shown
from scansynth.report.curves import POINTS, loss_plot, read_curves, thinned, validation_plot
from scansynth.report.viewer import NIIVUE, script_json
from scansynth.report.volumes import LEVELS, nifti, pack, quantised, residuals


def restored(left):
    """What `residuals` was given."""
    padded = np.zeros((left.shape[0] + 1, left.shape[1] + 1, left.shape[2]), dtype=int)
    for x in range(left.shape[0]):
        for y in range(left.shape[1]):
            a, b, c = padded[x, y + 1], padded[x + 1, y], padded[x, y]
            predicted = np.sort([a, b, a + b - c], axis=0)[1]
            padded[x + 1, y + 1] = (left[x, y] + predicted) % 256
    return padded[1:, 1:]


def test_residuals_lose_nothing_and_pack_better():
    ramp = np.add.outer(np.arange(20), np.add.outer(np.arange(18), np.arange(4))) * 3.0
    volume = (ramp + np.random.default_rng(0).normal(0, 4, ramp.shape)).clip(0, 255).astype(np.uint8)
    left = residuals(volume)
    np.testing.assert_array_equal(restored(left), volume)
    assert len(gzip.compress(left.tobytes())) < 0.9 * len(gzip.compress(volume.tobytes()))


def test_a_packed_volume_is_a_nifti_file_in_its_place(tmp_path):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = -10, -20, -30
    volume = np.zeros((20, 24, 16), np.float32)
    volume[6:14, 7:18, 4:12] = np.random.default_rng(0).uniform(0.3, 0.9, (8, 11, 8))
    synthesis = volume * 1.1
    packed = pack(
        [
            Shown(
                subject="sub-1",
                target="T2w",
                affine=affine,
                truth=volume,
                sources={"T1w": volume},
                syntheses={"run": synthesis},
                deviations={"run": volume / 10},
            )
        ]
    )
    (case,) = packed.cases
    assert [image["kind"] for image in case["images"]] == ["source", "truth", "synthesis", "uncertainty"]
    assert case["images"][1]["step"] == case["images"][2]["step"] == pytest.approx(synthesis.max() / LEVELS)
    path = tmp_path / "volume.nii.gz"
    path.write_bytes(base64.b64decode(packed.volumes[case["images"][2]["volume"]]))
    read = nib.load(path)
    assert b"SYNTHETIC" in read.header["descrip"].item()
    assert read.shape == tuple(case["shape"]) == (14, 17, 14)  # the head with a margin of three voxels
    step = case["images"][2]["step"]
    shown = restored(np.asarray(read.dataobj.get_unscaled())) * step
    np.testing.assert_allclose(read.affine @ [3, 3, 3, 1], affine @ [6, 7, 4, 1])
    np.testing.assert_allclose(shown[3:11, 3:14, 3:11], synthesis[6:14, 7:18, 4:12], atol=0.51 * step)


def test_nifti_keeps_the_step():
    content = nifti(np.full((2, 2, 2), 7, np.uint8), np.eye(4), 0.25, "description")
    np.testing.assert_array_equal(nib.Nifti1Image.from_bytes(content).get_fdata(), 1.75)


def test_what_lies_outside_the_scale_is_clipped():
    np.testing.assert_array_equal(quantised(np.array([-1.0, 0, 0.5, 1, 7]), 1.0, 255), [0, 0, 128, 255, 255])


def test_json_cannot_end_its_element():
    text = script_json({"name": "</script>&"})
    assert "<" not in text
    assert json.loads(text) == {"name": "</script>&"}


def test_the_vendored_viewer_is_the_one_that_its_version_names():
    stated = dict(line.split(" ", 1) for line in (NIIVUE / "VERSION").read_text().splitlines())
    content = (NIIVUE / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == stated["sha256"]
    assert b"</script" not in content
    assert stated["package"] == "@niivue/niivue"
    assert f"{stated['version']}".encode() in content
    assert "BSD 2-Clause" in (NIIVUE / "LICENSE").read_text()


def test_training_curves_are_read_up_to_an_unfinished_line(tmp_path):
    lines = [json.dumps({"step": step, "G/l1": 1 / step, "seconds_per_step": 0.1}) for step in range(1, 1001)]
    lines.append(json.dumps({"step": 1000, "validation/T2w/psnr": 20.0, "validation/psnr": 20.0}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 10')
    curves = read_curves(tmp_path)
    assert set(curves) == {"G/l1", "validation/T2w/psnr", "validation/psnr"}
    assert len(curves["G/l1"][0]) == 1000
    assert len(thinned(curves["G/l1"][1])) == POINTS
    assert thinned(curves["G/l1"][1]).mean() == pytest.approx(curves["G/l1"][1].mean())
    assert "T2w" not in (loss_plot({"run": curves}) or "T2w")
    assert validation_plot({"run": curves}).startswith("<?xml")
    assert read_curves(tmp_path / "other") == {}
    assert loss_plot({"other": {}}) is None
    assert validation_plot({"other": {}}) is None


def head(shift):
    """T1w and T2w of one head, a crop that begins so many voxels later along X, and its affine."""
    rng = np.random.default_rng(0)
    t1w, t2w = np.zeros((2, 30, 24, 16), np.float32)
    t1w[8:16, 7:18, 4:12], t2w[8:16, 7:18, 4:12] = rng.uniform(0.3, 0.9, (2, 8, 11, 8))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 3] = 2.0 * shift
    return np.roll(t1w, -shift, 0), np.roll(t2w, -shift, 0), affine


def test_targets_of_one_subject_on_different_crops_lie_where_they_are(tmp_path):
    shown = []
    for target, shift in (("T2w", 0), ("T1w", 3)):
        t1w, t2w, affine = head(shift)
        source, truth = ({"T1w": t1w}, t2w) if target == "T2w" else ({"T2w": t2w}, t1w)
        made = {"run": 1.2 * truth}
        shown.append(Shown(subject="s", target=target, affine=affine, truth=truth, sources=source, syntheses=made))
    packed = pack(shown)
    for case, one in zip(packed.cases, shown, strict=True):
        truth = next(image for image in case["images"] if image["kind"] == "truth")
        path = tmp_path / f"{one.target}.nii.gz"
        path.write_bytes(base64.b64decode(packed.volumes[truth["volume"]]))
        read = nib.load(path)
        values = restored(np.asarray(read.dataobj.get_unscaled())) * truth["step"]
        np.testing.assert_allclose(read.affine @ [3, 3, 3, 1], [16, 14, 12, 1])
        corner = np.argwhere(one.truth > 0)[0]
        shape = (8, 11, 8)
        inside = tuple(slice(first, first + side) for first, side in zip(corner, shape, strict=True))
        np.testing.assert_allclose(values[3:11, 3:14, 3:11], one.truth[inside], atol=0.51 * truth["step"])
    assert len(packed.volumes) == 4  # two scans, the same on both crops but for their place, and two syntheses
