"""Nothing acquired is ever overwritten: by no flag, verb or call, nor by way of a link, a part or a sidecar."""

import errno
import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.subject import sidecar_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.image import Synthesis, is_made
from scansynth.synthesis.run import Run
from scansynth.training.train import train

SHAPE = (6, 5, 4)
PARTS = ("t2_T1map.nii.gz", "t2_sample-2.nii.gz", "t2_sample-1.nii.gz", "t2_std.nii.gz", "t2.nii.gz")


def write_scan(path, description="", image_class=nib.Nifti1Image):
    """An acquired scan, or what its header says it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image_class(np.random.default_rng(0).random(SHAPE, dtype=np.float32), np.eye(4))
    image.header["descrip"] = description.encode()
    nib.save(image, path)
    return path


def synthesis(source):
    """Two samples and a map, made of a scan."""
    one = np.full(SHAPE, 0.5, np.float32)
    provenance = {"synthetic": True, "target": "T2w", "sources": {"T1w": source.name}}
    return Synthesis(
        array=one,
        deviation=one,
        samples=(one, one),
        provenance=provenance,
        like=Volume.of(one, np.eye(4)),
        maps={"T1 (s)": one},
        files=(source,),
    )


def contents(folder):
    """All files below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_refused(tmp_path, path, message):
    """Nothing is written where one of the files would take the place of something else."""
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        synthesis(tmp_path / "t1.nii.gz").write(path)
    assert contents(tmp_path) == before


@pytest.fixture
def source(tmp_path):
    return write_scan(tmp_path / "t1.nii.gz")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("what", ["scan", "sidecar"])
def test_a_scan_or_its_sidecar_in_the_place_of_any_file_is_kept(source, tmp_path, name, what):
    if what == "scan":
        write_scan(tmp_path / name)
    else:
        sidecar_of(tmp_path / name).write_text(json.dumps({"EchoTime": 0.1}))
    file = name if what == "scan" else sidecar_of(tmp_path / name).name
    assert_refused(tmp_path, tmp_path / "t2.nii.gz", rf"{file} is not marked synthetic.*choose another -o")


def test_the_source_is_kept_by_whatever_name_it_goes(source, tmp_path):
    marked = write_scan(source, "SYNTHETIC T1w by scansynth. Not a scan.")  # an own image, translated further
    sidecar_of(marked).write_text('{"synthetic": true}')
    os.link(marked, tmp_path / "hard.nii.gz")
    (tmp_path / "soft.nii.gz").symlink_to(marked)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    for name in ("t1.nii.gz", "hard.nii.gz", "soft.nii.gz", "folder/t1.nii.gz", "t1.nii"):
        assert_refused(tmp_path, tmp_path / name, "is a source of the synthesis, or a link to one")


def test_links_to_scans_and_what_is_no_file_are_kept(source, tmp_path):
    scan = write_scan(tmp_path / "acquired" / "t2.nii.gz")
    (tmp_path / "linked.nii.gz").symlink_to(scan)
    (tmp_path / "annexed.nii.gz").symlink_to(tmp_path / "not" / "fetched.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    for name in ("linked", "annexed", "folder"):
        assert_refused(tmp_path, tmp_path / f"{name}.nii.gz", rf"{name}\.nii\.gz is not marked synthetic")
    assert (tmp_path / "annexed.nii.gz").is_symlink()


def test_a_scan_does_not_get_the_sidecar_of_a_synthesis(source, tmp_path):
    write_scan(tmp_path / "t2.nii")
    assert_refused(tmp_path, tmp_path / "t2.nii.gz", r"t2\.nii is not marked synthetic, and t2\.json")
    write_scan(tmp_path / "flair.nii.gz")
    assert_refused(tmp_path, tmp_path / "flair.nii", r"flair\.nii\.gz is not marked synthetic")


@pytest.mark.parametrize("name", ["t2.mgz", "t2.mgh.gz", "t2.mha", "t2.NRRD", "t2_std.mgz"])
def test_nor_does_a_scan_of_another_format(source, tmp_path, name):
    (tmp_path / name).write_bytes(b"some scan" * 100)
    assert_refused(tmp_path, tmp_path / "t2.nii.gz", f"{name} is not marked synthetic, and {name[:-4]}|{name}")


def test_a_source_of_another_format_and_its_sidecar_are_kept(source, tmp_path):
    (tmp_path / "scan.mgz").write_bytes(b"a scan")
    (tmp_path / "scan.json").write_text('{"synthetic": true}')
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"scan\.json is a source of the synthesis"):
        synthesis(tmp_path / "scan.mgz").write(tmp_path / "scan.nii.gz")
    assert contents(tmp_path) == before


def test_a_name_that_is_none_costs_no_sidecar(source, tmp_path):
    (tmp_path / "t2.json").write_text('{"synthetic": true}')
    assert_refused(tmp_path, tmp_path / "t2", "ends in .nii or .nii.gz")


@pytest.mark.parametrize("name", ["t2.nii", "t2.nii.gz", "T2.NII.GZ"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_marked_images_are_replaced(source, tmp_path, name, image_class):
    write_scan(tmp_path / name, "SYNTHETIC T2w by scansynth. Not a scan.", image_class)
    written = synthesis(source).write(tmp_path / name)
    assert synthesis(source).write(tmp_path / name) == written  # those that it wrote itself
    assert np.all(nib.load(tmp_path / name).get_fdata() == 0.5)
    assert len(list(tmp_path.iterdir())) == 1 + 2 * len(PARTS)


@pytest.mark.parametrize("mark", ["SYNTHETIC MR", "Not SYNTHETIC T2w by scansynth", "synthetic", ""])
def test_other_marks_are_not_ours(source, tmp_path, mark):
    write_scan(tmp_path / "t2.nii.gz", mark)
    assert_refused(tmp_path, tmp_path / "t2.nii.gz", "not marked synthetic")


def test_what_holds_nothing_goes_by_the_mark_of_the_other(source, tmp_path):
    path = tmp_path / "t2.nii.gz"
    path.write_bytes(b"")
    assert_refused(tmp_path, path, "not marked synthetic")  # somebody's empty file
    path.unlink()
    synthesis(source).write(path)
    whole = path.read_bytes()
    for rest in (b"", whole[:20]):
        path.write_bytes(rest)
        synthesis(source).write(path)
        assert path.read_bytes() == whole
    sidecar_of(path).write_bytes(b"")
    synthesis(source).write(path)
    assert json.loads(sidecar_of(path).read_text())["synthetic"] is True
    shutil.copy(source, path)  # a scan put in the place of a synthesis: the sidecar says nothing of it
    assert_refused(tmp_path, path, r"t2\.nii\.gz is not marked synthetic")


def test_a_long_name_leaves_room_for_the_mark(source, tmp_path):
    made = synthesis(source)
    made = Synthesis(
        array=made.array, deviation=None, samples=(), provenance={**made.provenance, "target": "a" * 90}, like=made.like
    )
    made.write(tmp_path / "t2.nii.gz")
    made.write(tmp_path / "t2.nii.gz")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("number", range(5))
def test_a_stop_before_all_is_on_the_disk_leaves_what_was_there(source, tmp_path, monkeypatch, stop, number):
    path = tmp_path / "t2.nii.gz"
    synthesis(source).write(path)
    before = contents(tmp_path)
    plain, count = nib.Nifti1Image.to_filename, iter(range(9))

    def stopped(self, file):
        plain(self, file)
        if next(count) == number:
            raise stop

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", stopped)
    with pytest.raises(KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else InputError):
        replace(synthesis(source), array=np.ones(SHAPE, np.float32)).write(path)
    assert contents(tmp_path) == before
    assert is_made(path, {"target": "T2w"}, "")


@pytest.mark.parametrize("number", range(2 * len(PARTS)))
def test_a_stop_while_it_is_overwritten_leaves_no_old_sidecar_for_a_new_image(source, tmp_path, monkeypatch, number):
    path, new = tmp_path / "t2.nii.gz", np.ones(SHAPE, np.float32)
    synthesis(source).write(path)
    plain, count = os.replace, iter(range(999))

    def stopped(here, there):
        if not there.name.startswith(".") and next(count) == number:  # nothing that is itself a hidden one
            raise KeyboardInterrupt
        plain(here, there)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            replace(synthesis(source), array=new).write(path)
    assert not is_made(path, {"target": "T2w"}, "")
    assert not list(tmp_path.glob(".*"))
    replace(synthesis(source), array=new).write(path)
    assert is_made(path, {"target": "T2w"}, "")
    np.testing.assert_array_equal(nib.load(path).get_fdata(), new)


@pytest.mark.parametrize("number", range(2, 2 * len(PARTS) - 2, 2))
def test_a_command_that_was_stopped_between_parts_goes_on_without_overwrite(source, tmp_path, monkeypatch, number):
    path, plain, count = tmp_path / "t2.nii.gz", os.replace, iter(range(999))

    def stopped(here, there):
        if not there.name.startswith(".") and next(count) == number:
            raise KeyboardInterrupt
        plain(here, there)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            synthesis(source).write(path, overwrite=False)
    assert list(tmp_path.glob("t2_*.nii.gz"))
    assert not path.exists()
    synthesis(source).write(path, overwrite=False)
    assert is_made(path, {"target": "T2w"}, "")
    with pytest.raises(InputError, match="there already"):  # now it is whole
        synthesis(source).write(path, overwrite=False)


def test_another_image_by_the_name_of_a_part_is_not_replaced_without_overwrite(source, tmp_path):
    replace(synthesis(source), deviation=None, samples=(), maps={}).write(tmp_path / "t2_std.nii.gz")
    with pytest.raises(InputError, match=r"t2_std\.nii\.gz is there already"):
        synthesis(source).write(tmp_path / "t2.nii.gz", overwrite=False)


def test_parts_of_the_image_before_do_not_stay_with_the_next(source, tmp_path):
    path = tmp_path / "t2.nii.gz"
    synthesis(source).write(path)
    scan = write_scan(tmp_path / "t2_sample-2.nii.gz").read_bytes()  # put in the place of a part
    replace(synthesis(source), deviation=None, samples=(), maps={}).write(path)
    left = {"t1.nii.gz", "t2.nii.gz", "t2.json", "t2_sample-2.nii.gz", "t2_sample-2.json"}
    assert {file.name for file in tmp_path.iterdir()} == left
    assert (tmp_path / "t2_sample-2.nii.gz").read_bytes() == scan


# The mark in the header


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["t2.nii", "t2.nii.gz"])
def test_the_mark_outlives_a_program_that_writes_the_header_anew(source, tmp_path, name, image_class):
    made, path = synthesis(source), tmp_path / name
    header = image_class(made.array, np.eye(4)).header
    replace(made, like=replace(made.like, header=header)).write(path)
    image = nib.load(path)
    notes = [json.loads(one.get_content().rstrip(b"\0")) for one in image.header.extensions]
    assert [(note["synthetic"], note["mark"]) for note in notes] == [(True, "SYNTHETIC T2w by scansynth. Not a scan.")]
    image.header["descrip"] = b"FSL 6.0"
    image.header.extensions.insert(0, nib.nifti1.Nifti1Extension("afni", b"<AFNI_attributes/>" * 99))
    nib.save(image_class(image.get_fdata() + 1, image.affine, image.header), path)
    sidecar_of(path).unlink()
    assert not nib.load(path).header["descrip"].item().startswith(b"SYNTHETIC")
    made.write(path)  # known as ours, by the extension alone
    assert np.all(nib.load(path).get_fdata() == 0.5)


@pytest.mark.parametrize("text", [b"", b"SYNTHETIC T2w by scansynth", b'{"mark": "mine"}', b'["mark"]', b"\xff{"])
def test_other_comments_are_not_ours(source, tmp_path, text):
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text))
    nib.save(image, tmp_path / "t2.nii.gz")
    assert_refused(tmp_path, tmp_path / "t2.nii.gz", "not marked synthetic")


# Commands, and folders


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(tiny("regression", steps=2), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


@pytest.fixture
def bids(tmp_path):
    folder = tmp_path / "bids"
    write_phantom_cohort(folder, 2, ("T1w", "T2w"), layout="BIDS", seed=9, shape=(32, 32, 16), spacing=6.0)
    return folder


@pytest.fixture
def nothing_computed(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed before it was checked")

    monkeypatch.setattr(Run, "make", refuse)


@pytest.mark.parametrize("name", ["T1w.nii.gz", "T2w.nii.gz", "T2w.nii"])
@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
@pytest.mark.usefixtures("nothing_computed")
def test_the_command_keeps_source_and_target_of_a_subject(run, bids, name, flags, capfd):
    before = contents(bids)
    scans = bids / "sub-001" / "anat"
    command = ["translate", "--run", str(run.folder), "--t1w", str(scans / "sub-001_T1w.nii.gz"), "--target", "T2w"]
    assert main([*command, "-o", str(scans / f"sub-001_{name}"), "--device", "cpu", *flags]) == 1
    told = " ".join(capfd.readouterr().err.split())
    assert f"sub-001_{name[:3]}" in told
    assert "choose another -o" in told
    assert "or --overwrite" not in told  # it would not help
    assert contents(bids) == before


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize(
    ("file", "flags"),
    [("t2_std.nii.gz", ["--samples", "2"]), ("t2_sample-1.json", ["--samples", "2"]), ("t2_T1map.nii.gz", ["--maps"])],
)
def test_the_command_looks_for_all_parts_before_it_computes(run, bids, file, flags, tmp_path, capfd):
    standing = tmp_path / file
    if file.endswith(".json"):
        standing.write_text("{}")
    else:
        write_scan(standing)
    source = bids / "sub-001" / "anat" / "sub-001_T1w.nii.gz"
    command = ["translate", "--run", str(run.folder), "--t1w", str(source), "--target", "T2w", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "t2.nii.gz"), "--overwrite", *flags]) == 1
    assert f"{file} is not marked synthetic" in capfd.readouterr().err


def test_the_command_replaces_its_own_image_when_it_is_told_to(run, bids, tmp_path, capfd):
    source = bids / "sub-001" / "anat" / "sub-001_T1w.nii.gz"
    command = ["translate", "--run", str(run.folder), "--t1w", str(source), "--target", "T2w", "--device", "cpu"]
    command += ["-o", str(tmp_path / "t2.nii.gz")]
    assert main(command) == 0
    assert main(command) == 1
    assert "is there already; choose another -o, or --overwrite" in capfd.readouterr().err
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["sub-002_desc-synthetic_T2w.nii.gz", "sub-002_desc-synthetic_T2w.json"])
@pytest.mark.usefixtures("nothing_computed")
def test_a_folder_with_a_scan_in_the_way_is_left_as_it_is(run, bids, tmp_path, name, overwrite):
    file = tmp_path / "out" / "sub-002" / "anat" / name
    if name.endswith("json"):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    else:
        write_scan(file)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"{name} is not marked synthetic"):
        translate_cohort(run, find_subjects(bids), tmp_path / "out", target="T2w", overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("nothing_computed")
def test_a_folder_whose_images_are_the_sources_is_left_as_it_is(run, bids, tmp_path):
    """A table may list images that a translation made: these are sources then, though marked."""
    out, rows = tmp_path / "out", ["subject,contrast,path"]
    for name in ("a", "b"):
        for contrast in ("T1w", "T2w"):
            path = write_scan(out / name / f"{name}_{contrast}_synthetic.nii.gz", "SYNTHETIC x by scansynth.")
            rows.append(f"{name},{contrast},{path}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"T2w_synthetic\.nii\.gz is a source of the synthesis"):
        translate_cohort(run, find_subjects(tmp_path / "table.csv"), out, target="T2w", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset_description.json", '{"Name": "Mine", "BIDSVersion": "1.9.0", "DatasetType": "raw"}'),
        ("dataset_description.json", '{"GeneratedBy": [{"Name": "fMRIPrep"}], "DatasetType": "derivative"}'),
        ("dataset_description.json", "not JSON"),
        ("contrasts.tsv", "subject\tcontrast\tpath\nsub-001\tT1w\tsub-001_T1w.nii.gz\n"),
        ("contrasts.tsv", ""),
    ],
)
def test_files_of_somebody_elses_folder_are_kept(run, bids, tmp_path, name, text):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"{name}.*choose another -o"):
        translate_cohort(run, find_subjects(bids), tmp_path / "other", target="T2w", overwrite=True)
    assert contents(tmp_path) == before


def test_what_the_user_added_to_our_description_stays(run, bids, tmp_path):
    translate_cohort(run, find_subjects(bids), tmp_path / "out", target="T2w")
    path = tmp_path / "out" / "dataset_description.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "License": "CC0"}))
    translate_cohort(run, find_subjects(bids), tmp_path / "out", target="T1w")
    assert json.loads(path.read_text())["License"] == "CC0"


@pytest.mark.usefixtures("nothing_computed")
def test_a_file_is_no_folder(run, bids, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out is no folder"):
        translate_cohort(run, find_subjects(bids), tmp_path / "out", target="T2w")
    assert (tmp_path / "out").read_text() == "mine"
