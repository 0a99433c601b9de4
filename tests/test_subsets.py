"""One checkpoint, every set of sources: `evaluate --subsets all`; and moments of many samples."""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.evaluation.tasks import subsets_of
from scansynth.methods.ddpm import DdpmConfig
from scansynth.methods.regression import RegressionConfig
from scansynth.synthesis.moments import Moments
from scansynth.synthesis.sampling import Sampling
from scansynth.training.train import train

CONTRASTS = ("T1w", "T2w", "PDw", "FLAIR")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A cohort of four contrasts, of which the last subject lacks one, and a run that makes two of them."""
    folder = tmp_path_factory.mktemp("subsets")
    write_phantom_cohort(
        folder / "scans", 8, CONTRASTS, layout="table", shape=(32, 32, 16), spacing=6.0, missing={"phantom008": ["PDw"]}
    )
    cohort = build_cohort(
        find_subjects(folder / "scans" / "table.csv"), folder / "cohort", Preparation(size=(32, 32, None))
    )
    config = RunConfig(
        "regression", RegressionConfig(channels=8, multipliers=(1, 2), targets=("T2w",)), CONTRASTS,
        training=Training(steps=2, batch_size=2, validate_every=9),
    )  # fmt: skip
    train(config, cohort, folder / "run", device=torch.device("cpu"))
    return cohort, folder / "run"


def test_every_set_of_sources_has_a_row(three, tmp_path, capsys):
    cohort, run = three
    arguments = ["evaluate", "--run", run, "--cohort", cohort.folder, "-o", tmp_path / "out", "--subsets", "all"]
    assert main([*map(str, arguments), "--pictures", "1", "--keep", str(tmp_path / "kept"), "--device", "cpu"]) == 0
    with (tmp_path / "out" / "table.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] == "run"]
    subjects = {subject: set(cohort.available(subject)) - {"T2w"} for subject in cohort.subjects("test")}
    expected = Counter(
        (subject, "+".join(name for name in CONTRASTS if name in given))
        for subject, sources in subjects.items()
        for given in subsets_of(tuple(sorted(sources)))
    )
    assert Counter((row["subject"], row["sources"]) for row in rows) == expected
    assert len({row["psnr_db"] for row in rows}) == len(rows)  # each set gives another image
    assert len(list((tmp_path / "kept").rglob("*.npz"))) == len(rows)
    with (tmp_path / "out" / "table.csv").open(newline="") as stream:
        copied = Counter(
            (row["subject"], row["sources"]) for row in csv.DictReader(stream) if row["label"] == "copied source"
        )
    assert set(copied.values()) == {1}


def test_sets_of_sources():
    assert list(subsets_of(("a", "b", "c"))) == [
        ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c"),
    ]  # fmt: skip


def test_moments_are_those_of_all_images():
    images = 100 + np.random.default_rng(0).standard_normal((7, 4, 5, 3)).astype(np.float32)
    moments = Moments()
    moments.add(images[0])
    np.testing.assert_array_equal(moments.mean(), images[0])
    assert moments.deviation() is None
    for image in images[1:]:
        moments.add(image)
    np.testing.assert_allclose(moments.mean(), images.mean(0, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(moments.deviation(), images.std(0, ddof=1, dtype=np.float64), rtol=1e-6)


def test_many_samples_leave_their_moments_alone(cohort, tiny, phantoms, tmp_path, capsys):
    slices = replace(DdpmConfig.tiny(), patch=None)
    train(tiny("ddpm", slices, steps=2, validate_every=9), cohort, tmp_path / "run", device=torch.device("cpu"))
    scan = str(phantoms.subjects[-1].scans["T1w"])
    arguments = ["translate", "--run", str(tmp_path / "run"), "--t1w", scan, "--target", "T2w", "--samples", "3"]
    assert main([*arguments, "-o", str(tmp_path / "a.nii.gz"), "--device", "cpu"]) == 0
    assert main([*arguments, "-o", str(tmp_path / "b.nii.gz"), "--device", "cpu", "--moments-only"]) == 0
    names = {path.name.removesuffix(".gz").removesuffix(".nii") for path in tmp_path.glob("*.nii.gz")}
    assert names == {"a", "a_std", "a_sample-1", "a_sample-2", "a_sample-3", "b", "b_std"}
    run = scansynth.load(tmp_path / "run", "cpu")
    kept, alone = (
        run.translate({"T1w": scan}, "T2w", sampling=Sampling(samples=3, moments_only=only)) for only in (False, True)
    )
    np.testing.assert_array_equal(kept.array, alone.array)
    assert (len(kept.samples), len(alone.samples)) == (3, 0)
