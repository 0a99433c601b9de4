"""Patches: where they lie, what they show, and what is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import scansynth
from scansynth.config import DataSettings
from scansynth.data.build_cohort import build_cohort
from scansynth.data.datasets import from_network
from scansynth.data.layouts import find_subjects
from scansynth.data.patches import PatchDataset
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.methods.ddpm import DdpmConfig
from scansynth.noise import Noise
from scansynth.progress import Event
from scansynth.training.train import train

SIZE = (16, 12, 8)


@pytest.fixture(scope="module")
def dataset(cohort):
    return PatchDataset(cohort, ("T1w", "T2w"), "train", seed=3, size=SIZE)


def test_a_sample_is_a_box_of_the_scans_in_all_contrasts(dataset, cohort):
    for i in (0, 7, 123):
        subject, corner = dataset.place(i)
        box = tuple(slice(start, start + side) for start, side in zip(corner, SIZE, strict=True))
        item = dataset[i]
        assert item["available"].tolist() == [True, True]
        for k, contrast in enumerate(("T1w", "T2w")):
            shown = from_network(item["images"][k]).numpy()
            np.testing.assert_allclose(shown, cohort.read(subject, contrast)[box], atol=1e-6)


def test_each_subject_comes_twice_an_epoch_at_places_all_over_the_scan(dataset, cohort):
    subjects = cohort.subjects("train")
    assert len(dataset) == 2 * len(subjects)
    for turn in range(3):
        shown = Counter(dataset.place(turn * len(dataset) + i)[0] for i in range(len(dataset)))
        assert shown == dict.fromkeys(subjects, 2)
    corners = np.array([dataset.place(i)[1] for i in range(600)])
    free = np.array(cohort.shape(subjects[0], "T1w")) - SIZE
    assert (corners.min(axis=0) == 0).all()
    assert (corners.max(axis=0) == free).all()
    assert np.abs(corners.mean(axis=0) - free / 2).max() < 0.15 * free.max()


def test_a_sample_depends_on_seed_and_number_alone(dataset, cohort):
    again = PatchDataset(cohort, ("T1w", "T2w"), "train", seed=3, size=SIZE)
    assert torch.equal(again[41]["images"], dataset[41]["images"])
    other = PatchDataset(cohort, ("T1w", "T2w"), "train", seed=4, size=SIZE)
    assert [other.place(i) for i in range(8)] != [dataset.place(i) for i in range(8)]


def test_a_missing_contrast_is_unavailable(tmp_path):
    missing = {"sub-001": ("FLAIR",), "sub-002": ("T2w", "FLAIR")}
    contrasts = ("T1w", "T2w", "FLAIR")
    write_phantom_cohort(
        tmp_path / "bids", 4, contrasts, layout="BIDS", shape=(32, 32, 16), spacing=6.0, missing=missing
    )
    cohort = build_cohort(
        find_subjects(tmp_path / "bids"),
        tmp_path / "cohort",
        Preparation(size=(32, 32, None)),
        fractions=(1.0, 0.0, 0.0),
    )
    dataset = PatchDataset(cohort, contrasts, "train", seed=0, size=SIZE)
    assert "sub-002" not in dataset.subjects  # one contrast alone teaches nothing
    item = next(dataset[i] for i in range(6) if dataset.place(i)[0] == "sub-001")
    assert item["available"].tolist() == [True, True, False]
    assert not item["images"][2].any()


def test_scans_smaller_than_a_patch_are_refused(cohort):
    with pytest.raises(InputError, match="less than a patch of 64×64×16"):
        PatchDataset(cohort, ("T1w", "T2w"), "train", seed=0, size=(64, 64, 16))


def test_settings_of_slices_are_refused_with_patches(cohort, tiny, tmp_path):
    config = replace(tiny("cg_ddpm"), data=DataSettings(slices_per_subject=4))
    with pytest.raises(InputError, match="only acceleration and augmentation count"):
        train(config, cohort, tmp_path / "run", device=torch.device("cpu"))


def test_a_volume_smaller_than_a_patch_is_not_translated(cohort, tiny, tmp_path):
    train(tiny("ddpm", DdpmConfig.tiny(), steps=2), cohort, tmp_path / "run", device=torch.device("cpu"))
    run = scansynth.load(tmp_path / "run", "cpu")
    available = torch.tensor([[True, False]])
    with pytest.raises(InputError, match="less than the run's patches of 16×16×8"):
        run.make(torch.rand(1, 2, 16, 16, 6), available, "T2w", noise=Noise([(0, "a", 0)]))
    # With tissue in a single slice the patch around it is made.
    images = torch.zeros(1, 2, 16, 16, 12)
    images[..., 11] = 0.5
    assert run.method.needs.slab(11, 12, 12) == slice(4, 12)
    assert run.method.needs.slab(0, 1, 12) == slice(0, 8)
    assert run.make(images, available, "T2w", noise=Noise([(0, "a", 0)])).image.shape == (16, 16, 12)
    reports = []
    run.make(
        images,
        available,
        "T2w",
        noise=Noise([(0, "a", 0)]),
        at_once=1,
        report=reports.append,
    )
    assert reports == [Event(done, 4) for done in range(1, 5)]  # four steps of one patch
