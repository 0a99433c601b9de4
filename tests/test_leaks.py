"""A test subject's target is changed out of recognition: what is made from the others does not change by a bit.

Condition, crop, mask, normalisation and tissue would each show, if they looked at it. One person in two splits is
looked for in `test_damage.py` (links) and `test_census.py` (equal voxels), batches in `test_given.py`.
"""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from scansynth.data.build_cohort import build_cohort
from scansynth.data.build_tissue import TissueSettings
from scansynth.data.layouts import find_subjects
from scansynth.data.prepare import Preparation
from scansynth.data.raw.settings import Raw
from scansynth.evaluation.evaluate import TOGETHER, evaluate
from scansynth.synthesis.run import Run
from scansynth.training.train import train


def other_head(array):
    """Brighter by far, larger, moved to one side, and with something in the corner."""
    grown = np.roll(np.maximum(array, np.roll(array, 5, axis=1)), 4, axis=0) * 7
    grown[:3, :3, :3] = grown.max() * 2
    return grown


@pytest.fixture(scope="module")
def planted(phantoms, tmp_path_factory):
    """The phantoms, and the same with another T2w of the test subject; both prepared."""
    cohorts = []
    for name in ("as it is", "changed"):
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        shutil.copytree(phantoms.root, folder / "data")
        listing = find_subjects(folder / "data" / "table.csv")
        (subject,) = (one for one in listing.subjects if one.split == "test")
        if name == "changed":
            image = nib.load(subject.scans["T2w"])
            array = other_head(image.get_fdata(dtype=np.float32))
            nib.save(nib.Nifti1Image(array, image.affine), subject.scans["T2w"])
        settings = Preparation(size=(32, 32, None), intensity="robust")
        cohorts.append(build_cohort(listing, folder / "cohort", settings, tissue=TissueSettings(), accept=["cut-off"]))
    return cohorts


@pytest.mark.parametrize("method", ["regression", "syndiff"])
def test_a_target_leaks_into_nothing_that_is_made_without_it(planted, tiny, tmp_path, method):
    before, after = planted
    (subject,) = before.subjects("test")
    assert not np.array_equal(before.read(subject, "T2w"), after.read(subject, "T2w"))
    train(tiny(method, steps=2), before, tmp_path / method, device=torch.device("cpu"))
    run = Run.load(tmp_path / method, "cpu")
    images = []
    for cohort in planted:
        loaded = replace(run, record=replace(run.record, fingerprint=cohort.fingerprint))
        (shown,) = evaluate([loaded], cohort, target="T2w", pictures=1).shown
        images.append((shown.syntheses[method], shown.sources["T1w"], shown.affine))
    for one, other in zip(*images, strict=True):
        assert np.array_equal(one, other)


def test_a_table_of_scans_that_were_registered_together_says_so(cohort, tiny, tmp_path, monkeypatch):
    train(tiny(steps=2), cohort, tmp_path / "run", device=torch.device("cpu"))
    run = Run.load(tmp_path / "run", "cpu")
    assert evaluate([run], cohort, target="T2w", pictures=0).notes == []
    monkeypatch.setitem(vars(cohort), "raw", Raw())
    assert evaluate([run], cohort, target="T2w", pictures=0).notes == [TOGETHER]
