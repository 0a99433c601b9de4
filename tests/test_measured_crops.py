"""A test subject is measured on the crop of its sources: what a method gets is what translation hands it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

import scansynth
from blobs import ACCEPTED, K, as_older, blank, scans_of, write_blobs
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation, Undo, grid_for, prepare
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.evaluation import downstream
from scansynth.evaluation.downstream import ACQUIRED, measure_downstream
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.samples import draw, kept_at
from scansynth.evaluation.tasks import choose_work, synthesise
from scansynth.training.train import train

SETTINGS = Preparation(size=(32, 32, None))
TESTED = ("phantom009", "phantom010")
OLDER = "prepared by an older version"


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """Ten phantoms with T1w and T2w; the T1w of the two that are tested ends early, to the left and to the back."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_cohort(folder, 10, ("T1w", "T2w"), layout="table", shape=(32, 32, 16), spacing=6.0)
    found = find_subjects(folder / "table.csv")
    for axis, name in enumerate(TESTED):
        blank(next(one for one in found.subjects if one.name == name).scans["T1w"], axis, 6)
    return found


@pytest.fixture(scope="module")
def prepared(listing, tmp_path_factory):
    cohort = build_cohort(listing, tmp_path_factory.mktemp("cohort"), SETTINGS)
    assert tuple(cohort.subjects("test")) == TESTED
    return cohort


@pytest.fixture(scope="module")
def run(prepared, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny("regression", steps=2), prepared, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


@pytest.fixture
def seen(run, monkeypatch):
    """Every batch that the method is given from here on."""
    batches, method = [], run.method.translate
    monkeypatch.setattr(run.method, "translate", lambda batch, *some: batches.append(batch) or method(batch, *some))
    return batches


def task_of(run, cohort, subject, target="T2w"):
    work = choose_work([run], cohort, "test", protocol="syndiff", target=target)
    return next(task for task in work if task.subject == subject)


@pytest.fixture
def small(tmp_path):
    """Three subjects of three contrasts, and their listing's cohort."""
    return build_cohort(write_blobs(tmp_path), tmp_path / "out", Preparation(size=(16, 16, 12)), accept=ACCEPTED)


@pytest.mark.parametrize("subject", TESTED)
@pytest.mark.parametrize(("source", "target"), [("T1w", "T2w"), ("T2w", "T1w")])
def test_a_method_gets_in_evaluation_what_it_gets_in_translation(run, prepared, listing, seen, subject, source, target):
    task = task_of(run, prepared, subject, target)
    assert any(task.crop.shift) == (source == "T1w")  # T2w reaches as far as both together
    draw(run, task, 0, sample=0)
    run.translate({source: scans_of(listing, subject)[source]}, target, subject=subject)
    evaluated, translated = seen
    assert evaluated.keys() == translated.keys()
    for name, values in translated.items():
        assert torch.equal(evaluated[name], values), name


def test_noisy_sources_lie_on_the_same_crop(run, prepared, seen):
    task = task_of(run, prepared, TESTED[0])
    for level in (0.0, 1e-5):
        draw(run, task, 0, sample=0, level=level)
    np.testing.assert_allclose(seen[0]["images"].numpy(), seen[1]["images"].numpy(), atol=1e-3)


@pytest.mark.parametrize("subject", TESTED)
def test_another_target_changes_nothing_of_what_the_method_gets(run, prepared, listing, seen, subject, tmp_path):
    path = tmp_path / "T2w.nii.gz"
    path.write_bytes(scans_of(listing, subject)["T2w"].read_bytes())
    blank(path, 2, 4)
    blank(path, TESTED.index(subject), 9)
    changed = [
        replace(one, scans={**one.scans, "T2w": path}) if one.name == subject else one for one in listing.subjects
    ]
    other = build_cohort(replace(listing, subjects=tuple(changed)), tmp_path / "cohort", SETTINGS)
    assert not np.array_equal(other.affine(subject, "T1w"), prepared.affine(subject, "T1w"))
    for cohort in (prepared, other):
        synthesise(run, cohort, subject, target="T2w", seed=0, crop=cohort.crop(subject, ["T1w"]))
    assert torch.equal(seen[0]["images"], seen[1]["images"])
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(prepared.read(subject, "T1w"), other.read(subject, "T1w"))


def test_truth_and_pictures_lie_on_the_crop_of_the_sources(run, prepared, listing):
    shown = evaluate([run], prepared, protocol="syndiff", target="T2w", pictures=2).shown
    for one in shown:
        scans = {name: Volume.read(path) for name, path in scans_of(listing, one.subject).items()}
        grid = grid_for({"T1w": scans["T1w"]}, SETTINGS)
        np.testing.assert_allclose(one.affine, grid.affine, atol=1e-12)
        for contrast, image in (("T1w", one.sources["T1w"]), ("T2w", one.truth)):
            np.testing.assert_array_equal(
                image, prepare(scans[contrast], grid, contrast, SETTINGS.intensity, prepared.statistics[contrast])[0]
            )


def test_what_a_run_makes_is_what_translation_writes(run, prepared, listing):
    subject = TESTED[0]
    made = draw(run, task_of(run, prepared, subject), 0, sample=0).image
    scan = Volume.read(scans_of(listing, subject)["T1w"])
    written = run.translate({"T1w": scans_of(listing, subject)["T1w"]}, "T2w", subject=subject).array
    undone = Undo(grid_for({"T1w": scan}, SETTINGS))(made, run.record.statistics["T2w"])
    np.testing.assert_array_equal(written, undone)


def test_a_cohort_of_an_older_version_is_measured_as_before_and_says_so(run, prepared, listing, seen, tmp_path, caplog):
    current = build_cohort(listing, tmp_path / "out", SETTINGS)
    older = as_older(current)
    assert older.fingerprint == prepared.fingerprint
    caplog.set_level(logging.WARNING)
    evaluate([run], older, protocol="syndiff", target="T2w", pictures=0)
    said = [record.message for record in caplog.records if OLDER in record.message and "hashes" not in record.message]
    assert said == [
        f"{older.folder}: prepared by an older version: test subjects are cropped on all their scans, target included; "
        "run `prepare` again"
    ]
    for subject, batch in zip(TESTED, seen, strict=True):
        whole = older.read(subject, "T1w")
        places = np.flatnonzero((whole > 0).any((0, 1)))
        np.testing.assert_array_equal(whole, prepared.read(subject, "T1w"))
        np.testing.assert_array_equal(batch["images"][0, 0].numpy(), 2 * whole[..., places[0] : places[-1] + 1] - 1)


def test_samples_on_another_crop_are_kept_apart(run, prepared, seen, tmp_path):
    task = task_of(run, prepared, TESTED[0])
    kept = draw(run, task, 0, sample=0, kept=tmp_path)
    assert draw(run, task, 0, sample=0, kept=tmp_path).image.tolist() == kept.image.tolist()
    assert len(seen) == 1
    wider = replace(task, sources=("T1w", "T2w"))  # as beside runs that know more
    assert not any(wider.crop.shift)
    other = draw(run, wider, 0, sample=0, kept=tmp_path)
    assert len(seen) == 2
    assert not np.array_equal(kept.image, other.image)
    kept_at(run, task, 0, tmp_path).rename(kept_at(run, wider, 0, tmp_path))
    with pytest.raises(InputError, match="a sample of other crop"):
        draw(run, wider, 0, sample=0, kept=tmp_path)


def test_all_runs_of_a_task_share_the_crop_of_its_sources(tiny, tmp_path, small):
    runs = []
    for name, contrasts in (("pair", ("T1w", "T2w")), ("all", K)):
        config = replace(tiny("regression", steps=1, validate_every=9), contrasts=contrasts)
        train(config, small, tmp_path / name, device=torch.device("cpu"))
        runs.append(scansynth.load(tmp_path / name, "cpu"))
    work = choose_work(runs, small, "test", protocol="syndiff", target="T2w", subsets=True)
    assert {task.sources: len(task.runs) for task in work} == {("T1w",): 2, ("FLAIR",): 1, ("T1w", "FLAIR"): 2}
    for task in work:
        assert task.crop == small.crop("test", task.sources)
        np.testing.assert_array_equal(task.truth(), small.read("test", "T2w", crop=task.crop))
        np.testing.assert_array_equal(task.masks()["seg"], small.read_mask("test", "seg", crop=task.crop))
        for one in task.runs:
            made = draw(one, task, 0, sample=0).image
            given = [name for name in one.config.contrasts if name in task.sources]
            whole = np.stack([small.read("test", name, crop=task.crop) for name in given])
            empty = ~(whole > 0).any(axis=(0, 1, 2))
            assert not made[..., empty].any()


def test_a_segmenter_sees_a_test_subject_on_the_crop_of_the_sources(tiny, tmp_path, small, monkeypatch):
    config = replace(tiny("regression", steps=1, validate_every=9), contrasts=("T1w", "FLAIR"))
    train(config, small, tmp_path / "run", device=torch.device("cpu"))
    given = []

    def segment_none(images, affine):
        given.append((images, affine))
        return np.zeros((16, 16, 12), np.uint8)

    monkeypatch.setattr(downstream, "command_segmenter", lambda command: segment_none)
    run = scansynth.load(tmp_path / "run", "cpu")
    found = measure_downstream([run], small, "seg", target="FLAIR", command="x")
    assert [one.label for one in found] == [ACQUIRED, "run"]
    crop = small.crop("test", ["T1w"])
    for images, affine in given:
        np.testing.assert_array_equal(images["T1w"], small.read("test", "T1w", crop=crop))
        np.testing.assert_array_equal(affine, small.affine("test", "FLAIR", crop=crop))
    np.testing.assert_array_equal(given[0][0]["FLAIR"], small.read("test", "FLAIR", crop=crop))
