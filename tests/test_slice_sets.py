"""Training samples of sets of slices (`data/slice_sets.py`), as cDPM draws them."""

import numpy as np
import pytest
import torch

from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.slice_sets import SliceSetDataset
from scansynth.errors import InputError
from scansynth.methods.cdpm import Cdpm, CdpmConfig

TRANSLATOR = CdpmConfig.tiny()


@pytest.fixture(scope="module")
def dataset(cohort):
    sets = Cdpm(TRANSLATOR, ("T1w", "T2w")).needs
    return SliceSetDataset(cohort, ("T1w", "T2w"), "train", seed=3, largest=sets.largest, draw=sets.draw)


def test_a_sample_is_a_set_of_slices_in_all_contrasts(dataset, cohort):
    for i in (0, 7, 123):
        subject, index, is_target = dataset.place(i)
        item, count = dataset[i], len(index)
        assert item["slices"].shape == (6, 2, 32, 32)
        assert item["available"].tolist() == [True, True]
        assert item["depth"] == cohort.shape(subject, "T1w")[2]
        assert item["valid"].tolist() == [True] * count + [False] * (6 - count)
        assert torch.equal(item["index"][:count], index)
        assert torch.equal(item["is_target"][:count], is_target)
        assert not item["slices"][count:].any()
        assert not item["is_target"][count:].any()
        for k, contrast in enumerate(("T1w", "T2w")):
            truth = cohort.read(subject, contrast)[..., index.numpy()]
            np.testing.assert_allclose(from_network(item["slices"][:count, k]).movedim(0, 2).numpy(), truth, atol=1e-6)


def test_a_set_depends_on_seed_and_number_alone_and_reads_its_slices_alone(dataset, cohort, monkeypatch):
    again = SliceSetDataset(cohort, ("T1w", "T2w"), "train", seed=3, largest=dataset.largest, draw=dataset.draw)
    other = SliceSetDataset(cohort, ("T1w", "T2w"), "train", seed=4, largest=dataset.largest, draw=dataset.draw)
    items = [dataset[i] for i in range(9)]
    assert all(torch.equal(again[41 - i]["slices"], dataset[41 - i]["slices"]) for i in range(3))
    assert [other.place(i)[1].tolist() for i in range(9)] != [dataset.place(i)[1].tolist() for i in range(9)]
    subjects = cohort.subjects("train")
    assert sorted(dataset.place(len(subjects) + i)[0] for i in range(len(dataset))) == sorted(subjects)
    read, places = Cohort.read, []
    monkeypatch.setattr(
        Cohort, "read", lambda self, *place, **crop: places.append(place[2]) or read(self, *place, **crop)
    )
    assert torch.equal(dataset[2]["slices"], items[2]["slices"])
    assert places == 2 * dataset.place(2)[1].tolist()


def test_missing_contrasts_of_sets(tmp_path):
    missing = {"sub-001": ("FLAIR",), "sub-002": ("T2w", "FLAIR")}
    contrasts = ("T1w", "T2w", "FLAIR")
    write_phantom_cohort(
        tmp_path / "bids", 3, contrasts, layout="BIDS", shape=(32, 32, 16), spacing=6.0, missing=missing
    )
    listing, preparation = find_subjects(tmp_path / "bids"), Preparation(size=(32, 32, None))
    cohort = build_cohort(listing, tmp_path / "cohort", preparation, fractions=(1.0, 0.0, 0.0))
    sets = Cdpm(TRANSLATOR, contrasts).needs
    dataset = SliceSetDataset(cohort, contrasts, "train", seed=0, largest=sets.largest, draw=sets.draw)
    assert sorted(dataset.subjects) == ["sub-001", "sub-003"]  # one contrast alone teaches a translator nothing
    item = next(dataset[i] for i in range(2) if dataset.place(i)[0] == "sub-001")
    assert item["available"].tolist() == [True, True, False]
    assert not item["slices"][:, 2].any()
    assert len(SliceSetDataset(cohort, ("T1w",), "train", seed=0, largest=sets.largest, draw=sets.draw)) == 3
    with pytest.raises(InputError, match="no val subject has T1w"):
        SliceSetDataset(cohort, ("T1w",), "val", seed=0, largest=sets.largest, draw=sets.draw)
