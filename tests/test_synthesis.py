"""One subject and whole folders through a trained run: grids, units, sidecars, and what is refused."""

import gzip
import hashlib
import json
import os
import re
import resource
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.config import DataSettings
from scansynth.data.datasets import as_acquired
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import grid_for, prepare
from scansynth.data.subject import sidecar_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tables import COPIED_SOURCE
from scansynth.evaluation.tasks import synthesise
from scansynth.evaluation.write import write_evaluation
from scansynth.metrics.protocols import measure
from scansynth.noise import Noise
from scansynth.physics.kspace import undersample
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.image import Synthesis
from scansynth.synthesis.run import Run, Sample
from scansynth.synthesis.sampling import Sampling
from scansynth.training.train import train
from scansynth.training.validation import sources_shown, validation_targets
from scansynth.units import Slices

SMALL = {"shape": (32, 32, 16), "spacing": 6.0}


@pytest.fixture(scope="module")
def runs(cohort, tiny, tmp_path_factory):
    """A trained run folder for each method."""
    folders = {}
    for method, steps in (("regression", 30), ("syndiff", 10)):
        folders[method] = tmp_path_factory.mktemp("runs") / method
        train(tiny(method, steps=steps), cohort, folders[method], device=torch.device("cpu"))
    return folders


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    """Three subjects in BIDS; the second has no T2w."""
    folder = tmp_path_factory.mktemp("bids")
    write_phantom_cohort(folder, 3, ("T1w", "T2w"), layout="BIDS", seed=9, missing={"sub-002": ("T2w",)}, **SMALL)
    return folder


@pytest.fixture
def source(bids):
    return bids / "sub-002" / "anat" / "sub-002_T1w.nii.gz"


@pytest.mark.parametrize("change", [
    ("channels: 8", "channels: 60000"), ("T1w", "T1w/"), ("\n- T2w", ""),
], ids=["networks beyond the weights", "no contrast", "one contrast"])  # fmt: skip
def test_a_strangers_settings_take_no_memory_and_are_named(runs, tmp_path, change):
    folder = shutil.copytree(runs["regression"], tmp_path / "run")
    settings = (folder / "config.yaml").read_text()
    assert change[0] in settings
    (folder / "config.yaml").write_text(settings.replace(*change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=re.escape(str(folder / "config.yaml"))):
        Run.load(folder, "cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("method", ["regression", "syndiff"])
@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR"])
def test_output_has_the_sources_grid(runs, source, tmp_path, method, axes):
    original = nib.load(source)
    target = nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.ornt_transform(nib.io_orientation(original.affine), target)
    nib.save(original.as_reoriented(turn), tmp_path / "in.nii.gz")
    synthesis = scansynth.load(runs[method]).translate({"T1w": tmp_path / "in.nii.gz"}, target="T2w")
    synthesis.write(tmp_path / "out.nii.gz")
    given, made = nib.load(tmp_path / "in.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    assert made.shape == given.shape
    np.testing.assert_array_equal(made.affine, given.affine)
    assert made.get_data_dtype() == np.float32
    assert b"SYNTHETIC" in made.header["descrip"].tobytes()


def test_translation_does_not_depend_on_the_files_orientation(runs, source, tmp_path):
    original = nib.load(source)
    turn = nib.orientations.ornt_transform(nib.io_orientation(original.affine), nib.orientations.axcodes2ornt("SLA"))
    nib.save(original.as_reoriented(turn), tmp_path / "turned.nii.gz")
    run = scansynth.load(runs["syndiff"])
    straight = run.translate({"T1w": source}, subject="a")
    turned = run.translate({"T1w": tmp_path / "turned.nii.gz"}, subject="a")
    np.testing.assert_allclose(straight.array, turned.array, atol=1e-5 * straight.array.max())


def test_a_source_of_another_format_gives_the_same_image_as_nifti(runs, source, tmp_path):
    original = nib.load(source)
    scan = nib.MGHImage(original.get_fdata(dtype=np.float32), original.affine)
    nib.save(scan, tmp_path / source.name.replace(".nii.gz", ".mgz"))
    run = scansynth.load(runs["syndiff"])
    expected, made = (run.translate({"T1w": file}) for file in (source, next(tmp_path.iterdir())))
    np.testing.assert_allclose(made.array, expected.array, atol=1e-5 * expected.array.max())
    made.write(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, original.affine, atol=1e-5)


def test_intensities_are_in_the_targets_training_unit(runs, bids):
    run = scansynth.load(runs["regression"])
    made = run.translate({"T1w": bids / "sub-001" / "anat" / "sub-001_T1w.nii.gz"}).array
    true = Volume.read(bids / "sub-001" / "anat" / "sub-001_T2w.nii.gz").array
    assert 0.3 < np.mean(made[true > 0]) / np.mean(true[true > 0]) < 3


def test_a_translation_in_memory_equals_that_of_the_file(runs, source, tmp_path):
    run, image = scansynth.load(runs["syndiff"]), nib.load(source)
    file = run.translate({"T1w": source}, subject="a")
    array = (image.get_fdata(dtype=np.float32), image.affine)
    for given in (scansynth.Volume.read(source), nib.load(source), array):
        np.testing.assert_array_equal(run.translate({"T1w": given}, subject="a").array, file.array)
    made = run.translate({"T1w": array})
    assert made.provenance["sources"]["T1w"].startswith("in memory ")
    assert made.provenance["subject"] == made.provenance["sources"]["T1w"]  # the noise is the image's own
    np.testing.assert_array_equal(made.array, run.translate({"T1w": array}).array)
    made.write(tmp_path / "made.nii.gz")
    made.write(tmp_path / "made.nii.gz")  # what is there is marked, and is no source
    assert scansynth.Volume.read(tmp_path / "made.nii.gz").grid == scansynth.Volume.read(source).grid
    with pytest.raises(InputError, match=r"T1w .in memory. is an array alone"):
        run.translate({"T1w": array[0]})


def test_sidecar_says_what_was_made_of_what(runs, source, tmp_path):
    run = scansynth.load(runs["syndiff"])
    run.translate({"t1n": source}, "t2", sampling=Sampling(seed=3)).write(tmp_path / "t2.nii")
    sidecar = json.loads((tmp_path / "t2.json").read_text())
    assert sidecar["synthetic"] is True
    assert sidecar["target"] == "T2w"
    assert (sidecar["sources"], sidecar["run"]) == ({"T1w": source.name}, run.folder.name)
    assert sidecar["sha256"] == hashlib.sha256((tmp_path / "t2.nii").read_bytes()).hexdigest()
    assert (sidecar["method"], sidecar["seed"], sidecar["sampling_steps"]) == ("syndiff", 3, 4)
    assert len(sidecar["weights"]["sha256"]) == 64
    assert sidecar["versions"]["scansynth"] == scansynth.__version__


def test_several_samples_give_mean_and_deviation(runs, source, tmp_path):
    run = scansynth.load(runs["syndiff"])
    several = run.translate({"T1w": source}, sampling=Sampling(samples=3, seed=1))
    single = run.translate({"T1w": source}, sampling=Sampling(seed=1))
    np.testing.assert_array_equal(several.samples[0], single.array)
    np.testing.assert_allclose(several.array, np.mean(several.samples, axis=0), rtol=1e-6)
    np.testing.assert_allclose(several.deviation, np.std(several.samples, axis=0, ddof=1), rtol=1e-5, atol=1e-6)
    assert several.deviation.max() > 0
    several.write(tmp_path / "t2.nii.gz")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"t2.nii.gz", "t2_std.nii.gz", "t2_sample-1.nii.gz", "t2_sample-3.json"} <= names


def test_seed_subject_and_sample_key_the_noise(runs, source):
    run = scansynth.load(runs["syndiff"])
    first = run.translate({"T1w": source}, sampling=Sampling(seed=0)).array
    np.testing.assert_array_equal(first, run.translate({"T1w": source}, sampling=Sampling(seed=0)).array)
    assert not np.array_equal(first, run.translate({"T1w": source}, sampling=Sampling(seed=1)).array)
    assert not np.array_equal(first, run.translate({"T1w": source}, sampling=Sampling(seed=0), subject="other").array)


def test_shared_noise_makes_neighbouring_slices_agree(runs, source):
    run = scansynth.load(runs["syndiff"])
    apart, shared = (run.translate({"T1w": source}, sampling=Sampling(shared_noise=shared)) for shared in (False, True))
    assert shared.provenance["shared_noise"] is True
    steps = [np.abs(np.diff(made.array[:, :, 4:12], axis=2)).mean() / made.array.mean() for made in (apart, shared)]
    assert steps[1] < 0.9 * steps[0]


def test_slices_without_tissue_stay_background(runs, source, tmp_path):
    image = nib.load(source)
    array = image.get_fdata(dtype=np.float32)
    array[:, :, :4] = 0
    nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "in.nii.gz")
    made = scansynth.load(runs["syndiff"]).translate({"T1w": tmp_path / "in.nii.gz"}).array
    assert (made[:, :, :4] == 0).all()
    assert (made[:, :, 6:10] > 0).any()


def test_missing_contrasts_of_a_bids_folder(runs, bids, tmp_path):
    run = scansynth.load(runs["regression"])
    entries = translate_cohort(run, find_subjects(bids), tmp_path, missing=True)
    status = {(entry.subject, entry.contrast): entry.status for entry in entries}
    assert status["sub-001", "T2w"] == "real"
    assert status["sub-002", "T2w"] == "synthetic"
    made = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz")]
    assert made == ["sub-002/anat/sub-002_desc-synthetic_T2w.nii.gz"]
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert (tmp_path / "contrasts.tsv").read_text().count("real") == 5


def test_a_stop_right_after_an_image_costs_no_picture(runs, bids, tmp_path, monkeypatch):
    run, listing, plain = scansynth.load(runs["regression"]), find_subjects(bids), Synthesis.write

    def stopped(self, path, **how):
        plain(self, path, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Synthesis, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            translate_cohort(run, listing, tmp_path, target="T2w")
    translate_cohort(run, listing, tmp_path, target="T2w")
    assert len(list(tmp_path.rglob("*.nii.gz"))) == len(list(tmp_path.rglob("figures/*.png"))) == 3


def test_a_cohort_goes_on_where_it_stopped(runs, bids, tmp_path):
    run = scansynth.load(runs["syndiff"])
    listing = find_subjects(bids)
    translate_cohort(run, listing, tmp_path, target="T2w")
    images = sorted(tmp_path.rglob("*.nii.gz"))
    assert len(images) == 3
    kept = images[0].stat().st_mtime_ns
    whole = nib.load(images[1]).get_fdata()
    sidecar_of(images[1]).unlink()  # as if it had been stopped between image and sidecar
    translate_cohort(run, listing, tmp_path, target="T2w")
    assert images[0].stat().st_mtime_ns == kept
    np.testing.assert_array_equal(nib.load(images[1]).get_fdata(), whole)
    assert sidecar_of(images[1]).exists()
    with pytest.raises(InputError, match=r"another run, seed or number of samples"):
        translate_cohort(run, listing, tmp_path, target="T2w", sampling=Sampling(seed=1))
    assert images[0].stat().st_mtime_ns == kept
    translate_cohort(run, listing, tmp_path, target="T2w", sampling=Sampling(seed=1), overwrite=True)
    assert not np.array_equal(nib.load(images[1]).get_fdata(), whole)


def another_unit(path):
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[123] = 6  # xyzt_units
    path.write_bytes(gzip.compress(data))


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(("spoil", "why"), [
    (lambda path: path.write_bytes(path.read_bytes()[:200]), "truncated"),
    (another_unit, "code that NIfTI"), (a_pipe, "pipe"),
], ids=["truncated", "unit", "pipe"])  # fmt: skip
def test_a_bad_subject_is_named_and_the_others_are_made(runs, bids, tmp_path, spoil, why):
    folder = tmp_path / "in"
    shutil.copytree(bids, folder)
    spoil(folder / "sub-001" / "anat" / "sub-001_T1w.nii.gz")
    with pytest.raises(InputError, match=rf"1 of 3 images.*sub-001 T2w.*sub-001_T1w.nii.gz.*{why}"):
        translate_cohort(scansynth.load(runs["regression"]), find_subjects(folder), tmp_path / "out", target="T2w")
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 2
    assert "sub-001\tT2w\tfailed\t\t" in (tmp_path / "out" / "contrasts.tsv").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: np.stack([a, a], axis=3), "4D"),
        (lambda a: np.where(a > 0, np.nan, a), "NaN"),
    ],
)
def test_bad_sources_are_refused(runs, source, tmp_path, change, message):
    image = nib.load(source)
    nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine), tmp_path / "bad.nii.gz")
    with pytest.raises(InputError, match=rf"bad\.nii\.gz.*{message}"):
        scansynth.load(runs["regression"]).translate({"T1w": tmp_path / "bad.nii.gz"})


def test_wrong_requests_are_refused(runs, source, bids, tmp_path, cohort, tiny):
    run = scansynth.load(runs["syndiff"])
    cases = [
        (lambda: run.translate({}), "no source"),
        (lambda: run.translate({"FLAIR": source}), "FLAIR"),
        (lambda: run.translate({"T1w": source}, "CT"), "CT"),
        (lambda: run.translate({"T1w": source}, "T1w"), "both source and target"),
        (lambda: run.translate({"T1w": source}, sampling=Sampling(samples=0)), "samples 0"),
        (
            lambda: scansynth.load(runs["regression"]).translate({"T1w": source}, sampling=Sampling(samples=2)),
            "draws nothing",
        ),
        (lambda: scansynth.load(tmp_path), "not a run folder"),
        (lambda: translate_cohort(run, find_subjects(bids), bids), "one folder"),
    ]
    for request, message in cases:
        with pytest.raises(InputError, match=message):
            request()
    empty = tmp_path / "untrained"
    shutil.copytree(runs["syndiff"], empty)
    for part in ("last", "best"):
        shutil.rmtree(empty / part)
    with pytest.raises(InputError, match="no checkpoint"):
        scansynth.load(empty)


def test_sources_on_differing_grids_are_refused(cohort, tiny, runs, source, tmp_path):
    # Regression on three contrasts reads two sources at once.
    folder = tmp_path / "data"
    write_phantom_cohort(folder, 3, ("T1w", "T2w", "PDw"), layout="table", **SMALL)
    from scansynth.data.build_cohort import build_cohort

    three = build_cohort(find_subjects(folder / "table.csv"), tmp_path / "cohort", replace(cohort.settings))
    train(replace(tiny(steps=2), contrasts=()), three, tmp_path / "run", device=torch.device("cpu"))
    image = nib.load(folder / "phantom001_PDw.nii.gz")
    nib.save(image.slicer[:, :, 2:], tmp_path / "cropped.nii.gz")
    with pytest.raises(InputError, match="different grids"):
        scansynth.load(tmp_path / "run").translate(
            {"T1w": folder / "phantom001_T1w.nii.gz", "PDw": tmp_path / "cropped.nii.gz"}, "T2w"
        )


def test_nothing_half_written(runs, source, tmp_path, monkeypatch):
    synthesis = scansynth.load(runs["regression"]).translate({"T1w": source})
    broken = gzip.GzipFile.write

    def fail(self, data):
        if self.fileobj is not None and len(data) > 1000:
            raise OSError("disk full")
        return broken(self, data)

    monkeypatch.setattr(gzip.GzipFile, "write", fail)
    with pytest.raises((OSError, InputError)):
        synthesis.write(tmp_path / "out.nii.gz")
    assert list(tmp_path.iterdir()) == []


FOLD = 3


@pytest.fixture(scope="module")
def accelerated(cohort, tiny, tmp_path_factory):
    """A run that knows T1w at a ninth of its k-space only."""
    folder = tmp_path_factory.mktemp("accelerated") / "run"
    data = DataSettings(acceleration=(("T1w", FOLD),), slices_per_subject=10)
    train(replace(tiny("regression", steps=30), data=data), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder)


def low(cohort, subject):
    """The subject's T1w as the run `accelerated` sees it, (X, Y, Z)."""
    slices = undersample(torch.from_numpy(cohort.read(subject, "T1w")).permute(2, 0, 1), FOLD)
    return slices.permute(1, 2, 0).numpy()


def at_full_resolution(run):
    return replace(run, config=replace(run.config, data=DataSettings()))


def test_training_reads_the_chosen_slices_accelerated(cohort, tiny, tmp_path, monkeypatch):
    made, samples = [], Slices.samples

    def kept(self, *arguments, **settings):
        made.append(samples(self, *arguments, **settings))
        return made[-1]

    monkeypatch.setattr(Slices, "samples", kept)
    data = DataSettings(acceleration=(("T1w", FOLD),), slices_per_subject=5)
    train(replace(tiny("regression", steps=1), data=data), cohort, tmp_path / "run", device=torch.device("cpu"))
    assert len(made[0]) == 5 * len(cohort.subjects("train"))
    subject, z = made[0].places(0)["T1w"]
    torch.testing.assert_close(made[0][0]["images"][0], torch.from_numpy(2 * low(cohort, subject)[..., z] - 1))


def test_validation_sees_accelerated_sources_and_truths(accelerated, cohort):
    cases = {one.target: one for one in validation_targets(cohort, accelerated.method, accelerated.config)}
    subject = cohort.subjects("val")[0]
    full = {
        one.target: one
        for one in validation_targets(cohort, accelerated.method, at_full_resolution(accelerated).config)
    }
    tissue = np.flatnonzero(np.max([cohort.foreground(subject, name) for name in ("T1w", "T2w")], axis=0) >= 0.1)
    expected = low(cohort, subject)

    def shows(image, volume):
        return all(any(np.allclose(image[..., n], volume[..., z], atol=1e-6) for z in tissue) for n in range(3))

    seen = sources_shown(accelerated.method, cases["T2w"])["T1w"]
    assert shows(seen, expected)
    assert shows(cases["T1w"].truth.numpy(), expected)
    assert not shows(seen, cohort.read(subject, "T1w"))
    assert torch.equal(cases["T2w"].truth, full["T2w"].truth)


def test_evaluation_sees_accelerated_sources_and_truths(accelerated, cohort, tmp_path, monkeypatch):
    pictures = {}

    def keep(path, shown, synthesis, *, target, **_):
        pictures[path.name] = shown, target

    monkeypatch.setattr("scansynth.evaluation.write.montage", keep)
    evaluation = evaluate([accelerated], cohort, protocol="syndiff")
    write_evaluation(evaluation, tmp_path)
    assert f"T1w accelerated {FOLD}×{FOLD}, as source" in (tmp_path / "table.md").read_text()
    subject = cohort.subjects("test")[0]
    t1w, t2w = low(cohort, subject), cohort.read(subject, "T2w")
    found = {(result.label, result.target): result.measurement for result in evaluation.results}
    for target, source, truth in (("T2w", t1w, t2w), ("T1w", t2w, t1w)):
        copied = measure("syndiff", source, truth)
        np.testing.assert_allclose(
            found[COPIED_SOURCE, target].figures["psnr_db"], copied.figures["psnr_db"], rtol=1e-4
        )
        (made,), _ = synthesise(accelerated, cohort, subject, target=target, seed=0)
        expected = measure("syndiff", made.image, truth).figures["psnr_db"]
        np.testing.assert_allclose(found["run", target].figures["psnr_db"], expected, rtol=1e-4)
        shown, shown_truth = pictures[f"montage_run_{subject}_{target}.png"]
        np.testing.assert_allclose(next(iter(shown.values())), source, atol=1e-6)
        np.testing.assert_allclose(shown_truth, truth, atol=1e-6)
    unlike = measure("syndiff", cohort.read(subject, "T1w"), t2w).figures["psnr_db"]
    assert np.abs(unlike - found[COPIED_SOURCE, "T2w"].figures["psnr_db"]).max() > 0.05


def test_what_the_run_makes_from_a_cohort_comes_from_the_accelerated_source(accelerated, cohort):
    subject = cohort.subjects("test")[0]
    images = torch.stack([torch.from_numpy(low(cohort, subject)), torch.zeros(32, 32, 16)])[None]
    noise = Noise([(0, subject, 0)], accelerated.device)
    expected = accelerated.make(images, torch.tensor([[True, False]]), "T2w", noise=noise).image
    (made,), sources = synthesise(accelerated, cohort, subject, target="T2w", seed=0)
    assert sources == ("T1w",)
    np.testing.assert_allclose(made.image, expected, atol=1e-4)
    (other,), _ = synthesise(at_full_resolution(accelerated), cohort, subject, target="T2w", seed=0)
    assert np.abs(other.image - made.image).max() > 0.02


def test_runs_of_unlike_acceleration_cannot_stand_in_one_table(accelerated, runs, cohort):
    with pytest.raises(InputError, match="see T1w at accelerations 3 and 1"):
        evaluate([accelerated, scansynth.load(runs["regression"])], cohort)


def test_files_are_accelerated_as_the_run_was(accelerated, source, tmp_path):
    synthesis = accelerated.translate({"T1w": source})
    volume = Volume.read(source)
    grid = grid_for({"T1w": volume}, accelerated.record.settings)
    image, undo = prepare(volume, grid, "T1w", "syndiff", accelerated.record.statistics["T1w"])
    seen = as_acquired(torch.from_numpy(image), "T1w", (("T1w", FOLD),))
    batch = torch.stack([seen, torch.zeros_like(seen)])[None]
    noise = Noise([(0, "any", 0)], accelerated.device)
    made = accelerated.make(batch, torch.tensor([[True, False]]), "T2w", noise=noise).image
    expected = undo(made, accelerated.record.statistics["T2w"])
    np.testing.assert_allclose(synthesis.array, expected, rtol=1e-4, atol=1e-4 * expected.max())
    full = at_full_resolution(accelerated).translate({"T1w": source})
    assert np.abs(full.array - expected).max() > 0.02 * expected.max()
    synthesis.write(tmp_path / "t2.nii.gz")
    assert json.loads((tmp_path / "t2.json").read_text())["acceleration"] == {"T1w": [FOLD, FOLD]}
    assert full.provenance["acceleration"] == {}


def test_an_accelerated_target_is_named_in_the_sidecar_too(accelerated, bids):
    source = bids / "sub-001" / "anat" / "sub-001_T2w.nii.gz"
    assert accelerated.translate({"T2w": source}).provenance["acceleration"] == {"T1w": [FOLD, FOLD]}


def test_a_scan_acquired_at_this_acceleration_changes_little(accelerated, source, tmp_path, monkeypatch):
    original = nib.load(source)
    slices = torch.from_numpy(original.get_fdata(dtype=np.float32)).permute(2, 0, 1)
    acquired = undersample(slices, FOLD).permute(1, 2, 0).numpy()
    nib.save(nib.Nifti1Image(acquired, original.affine), tmp_path / "low.nii.gz")
    seen = []

    def keep(self, images, *_, **named):
        seen.append(images[0, 0].numpy())
        return Sample(seen[-1])

    monkeypatch.setattr(Run, "make", keep)
    for path in (tmp_path / "low.nii.gz", source):
        for run in (accelerated, at_full_resolution(accelerated)):
            run.translate({"T1w": path})
    changes = [np.abs(accelerated - plain).mean() for accelerated, plain in (seen[:2], seen[2:])]
    # What is left is ringing: much in 32 voxels, and cut off where the prepared grid pads the scan.
    assert changes[0] < 0.5 * changes[1]


def test_acceleration_of_a_contrast_that_the_run_lacks_is_refused(cohort, tiny, tmp_path):
    config = replace(tiny("regression"), data=DataSettings(acceleration=(("PDw", 2),)))
    with pytest.raises(InputError, match=r"acceleration 'PDw': not among the run's contrasts T1w, T2w"):
        train(config, cohort, tmp_path / "run", device=torch.device("cpu"))
    assert not (tmp_path / "run").exists()
