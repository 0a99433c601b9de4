"""A folder of translations: what counts as made, what `contrasts.tsv` says of it, and what `--missing` makes."""

import csv
import json
import logging
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
from scansynth.synthesis.sampling import Sampling
from scansynth.training.train import train

SMALL = {"seed": 9, "shape": (32, 32, 16), "spacing": 6.0}


@pytest.fixture(scope="module")
def runs(cohort, tiny, tmp_path_factory):
    """A run that draws and one that does not, both of T1w and T2w."""
    found = []
    for method in ("syndiff", "regression"):
        folder = tmp_path_factory.mktemp("runs") / method
        train(tiny(method, steps=2), cohort, folder, device=torch.device("cpu"))
        found.append(scansynth.load(folder, "cpu"))
    return found


@pytest.fixture
def bids(tmp_path):
    """Two subjects; the second has no T2w, and only the first a PDw, which the runs do not know."""
    folder, lacking = tmp_path / "bids", {"sub-002": ("T2w", "PDw")}
    write_phantom_cohort(folder, 2, ("T1w", "T2w", "PDw"), layout="BIDS", missing=lacking, **SMALL)
    return folder


def rows(out):
    """Rows of the table: (subject, contrast, status) → (path, note)."""
    with (out / "contrasts.tsv").open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    assert {tuple(row) for row in found} == {("subject", "contrast", "status", "path", "note")}
    return {(row["subject"], row["contrast"], row["status"]): (row["path"], row["note"]) for row in found}


# What counts as made


def damage(path, how):
    """Harm a file as a full disk, a hand or a broken copy does."""
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: {"emptied": 0, "cut": path.stat().st_size // 2}[how]])


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut"])
@pytest.mark.parametrize("name", ["t2", "t2_std", "t2_sample-2", "t2_T1map"])
@pytest.mark.parametrize("what", ["image", "sidecar"])
def test_what_is_not_whole_is_not_made(tmp_path, name, what, how):
    one = np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
    provenance = {"synthetic": True, "target": "T2w", "seed": 1}
    path, wanted = tmp_path / "t2.nii.gz", {"seed": 1}
    Synthesis(
        array=one,
        deviation=one,
        samples=(one, one),
        provenance=provenance,
        like=Volume.of(one, np.eye(4)),
        maps={"T1 (s)": one},
    ).write(path)
    assert is_made(path, wanted, "of another kind")
    image = tmp_path / f"{name}.nii.gz"
    damage(image if what == "image" else sidecar_of(image), how)
    assert not is_made(path, wanted, "of another kind")


@pytest.mark.parametrize("name", ["t2", "t2_std", "t2_sample-2", "t2_T1map"])
def test_another_image_of_the_same_size_is_not_the_one(tmp_path, name):
    one = np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
    path = tmp_path / "t2.nii.gz"
    Synthesis(
        array=one,
        deviation=one,
        samples=(one, one),
        provenance={"synthetic": True, "target": "T2w"},
        like=Volume.of(one, np.eye(4)),
        maps={"T1 (s)": one},
    ).write(path)
    image = tmp_path / f"{name}.nii.gz"
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    assert not is_made(path, {"target": "T2w"}, "of another kind")


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_sidecars_of_before_count_while_their_image_is_there(tmp_path, how):
    one = np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
    path = tmp_path / "t2.nii.gz"
    Synthesis(
        array=one,
        deviation=None,
        samples=(),
        provenance={"synthetic": True, "target": "T2w"},
        like=Volume.of(one, np.eye(4)),
    ).write(path)
    content = json.loads(sidecar_of(path).read_text())
    sidecar_of(path).write_text(json.dumps({key: content[key] for key in ("synthetic", "target")}))
    assert is_made(path, {"target": "T2w"}, "of another kind")
    with pytest.raises(InputError, match="is there of another kind"):
        is_made(path, {"target": "T1w"}, "of another kind")
    damage(path, how)
    assert not is_made(path, {"target": "T2w"}, "of another kind")


@pytest.mark.parametrize("part", ["", "Std", "Sample2"])
def test_a_folder_gets_again_what_is_gone(runs, bids, tmp_path, part):
    out, asked = tmp_path / "out", {"target": "T2w", "sampling": Sampling(samples=2)}
    translate_cohort(runs[0], find_subjects(bids), out, **asked)
    kept = out / "sub-001" / "anat" / "sub-001_desc-synthetic_T2w.nii.gz"
    image = out / "sub-002" / "anat" / f"sub-002_desc-synthetic{part}_T2w.nii.gz"
    whole, before = nib.load(image).get_fdata(), kept.stat().st_mtime_ns
    damage(image, "emptied")
    translate_cohort(runs[0], find_subjects(bids), out, **asked)
    np.testing.assert_array_equal(nib.load(image).get_fdata(), whole)
    assert kept.stat().st_mtime_ns == before


def test_samples_that_were_left_out_are_made_when_they_are_asked_for(runs, bids, tmp_path):
    out, both = tmp_path / "out", Sampling(samples=2)
    moments = replace(both, moments_only=True)
    translate_cohort(runs[0], find_subjects(bids), out, target="T2w", sampling=moments)
    assert not list(out.rglob("*Sample*"))
    translate_cohort(runs[0], find_subjects(bids), out, target="T2w", sampling=both)
    assert len(list(out.rglob("*Sample*.nii.gz"))) == 4
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    translate_cohort(runs[0], find_subjects(bids), out, target="T2w", sampling=moments)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before


# contrasts.tsv


def test_the_table_lists_all_contrasts_with_paths_that_hold(runs, bids, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    command = ["translate", "--run", str(runs[1].folder), "-i", "bids", "-o", "out", "--missing", "--device", "cpu"]
    assert main(command) == 0
    found = rows(tmp_path / "out")
    image = "sub-002/anat/sub-002_desc-synthetic_T2w.nii.gz"
    assert found == {
        ("sub-001", "T1w", "real"): ("bids:source:sub-001/anat/sub-001_T1w.nii.gz", ""),
        ("sub-001", "T2w", "real"): ("bids:source:sub-001/anat/sub-001_T2w.nii.gz", ""),
        ("sub-001", "PDw", "real"): ("bids:source:sub-001/anat/sub-001_PDw.nii.gz", ""),
        ("sub-002", "T1w", "real"): ("bids:source:sub-002/anat/sub-002_T1w.nii.gz", ""),
        ("sub-002", "T2w", "synthetic"): (image, ""),
        ("sub-002", "PDw", "absent"): ("", "not of this run"),
    }
    assert (tmp_path / "out" / image).is_file()
    printed = [tuple(line.split("\t")) for line in capfd.readouterr().out.splitlines()]
    assert printed == [(*key, *rest) for key, rest in found.items()]


def test_a_second_run_leaves_the_first_ones_images_listed(runs, bids, tmp_path):
    out, listing = tmp_path / "out", find_subjects(bids)
    translate_cohort(runs[0], listing, out, target="T2w")
    with pytest.raises(InputError, match="another run"):
        translate_cohort(runs[1], listing, out, target="T2w")
    translate_cohort(runs[1], listing, out, target="T1w")
    found = rows(out)
    for subject in ("sub-001", "sub-002"):
        path, note = found[subject, "T2w", "synthetic"]
        assert (out / path).is_file()
        assert note == f"made by {runs[0].folder.name}, seed 0"
    assert found["sub-001", "T1w", "synthetic"] == ("sub-001/anat/sub-001_desc-synthetic_T1w.nii.gz", "")
    assert not [key for key in found if key[1] == "T2w" and key[2] in ("absent", "failed")]
    assert ("sub-002", "T1w", "synthetic") not in found  # it has no source
    assert found["sub-002", "PDw", "absent"] == ("", "not of this run")


def test_the_reason_stands_in_the_note_and_not_in_the_path(runs, bids, tmp_path):
    out, listing = tmp_path / "out", find_subjects(bids)
    translate_cohort(runs[0], listing, out, target="T2w")
    with pytest.raises(InputError, match="another run"):
        translate_cohort(runs[1], listing, out, target="T2w")
    path, note = rows(out)["sub-002", "T2w", "synthetic"]
    assert (out / path).is_file()
    assert "another run" in note
    bad = bids / "sub-002" / "anat" / "sub-002_T1w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(InputError, match="truncated"):
        translate_cohort(runs[1], listing, tmp_path / "other", target="T2w")
    path, note = rows(tmp_path / "other")["sub-002", "T2w", "failed"]
    assert path == ""
    assert "truncated" in note
    translate_cohort(runs[1], replace(listing, subjects=listing.subjects[:1]), tmp_path / "other", target="T1w")
    assert rows(tmp_path / "other")["sub-002", "T2w", "failed"] == (path, note)  # nothing has been said of it since


def test_two_folders_of_data_stand_in_one_table(runs, bids, tmp_path):
    out = tmp_path / "out"
    write_phantom_cohort(tmp_path / "more", 1, ("T1w", "T2w"), layout="IXI", **SMALL)
    translate_cohort(runs[1], find_subjects(bids), out, missing=True)
    first = rows(out)
    translate_cohort(runs[1], find_subjects(tmp_path / "more"), out, target="T2w")
    found = rows(out)
    assert {key: value[0] for key, value in first.items()}.items() <= {k: v[0] for k, v in found.items()}.items()
    (key,) = (key for key in found if key[0].startswith("IXI") and key[2] == "synthetic")
    assert (out / found[key][0]).is_file()
    (bids / "sub-001" / "anat" / "sub-001_PDw.nii.gz").unlink()
    translate_cohort(runs[1], find_subjects(bids), out, missing=True)
    assert ("sub-001", "PDw", "real") not in rows(out)
    assert set(found) - set(rows(out)) == {("sub-001", "PDw", "real")}


def test_a_table_of_before_loses_the_folders_of_the_machine(runs, bids, tmp_path):
    out, there = tmp_path / "out", bids / "sub-001" / "anat" / "sub-001_PDw.nii.gz"
    out.mkdir()
    lines = (("subject", "contrast", "status", "path", "note"), ("other", "PDw", "real", str(there), ""),
             ("other", "T1w", "real", str(tmp_path / "gone.nii.gz"), ""),
             ("other", "T2w", "failed", "", f"{there} is truncated"))  # fmt: skip
    (out / "contrasts.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    translate_cohort(runs[1], find_subjects(bids), out, missing=True)
    found = rows(out)
    assert found["other", "PDw", "real"] == (there.name, "")
    assert found["other", "T2w", "failed"] == ("", f"{there.name} is truncated")
    assert ("other", "T1w", "real") not in found


def test_an_older_table_is_ours(runs, bids, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "contrasts.tsv").write_text("subject\tcontrast\tstatus\tpath\nsub-001\tT1w\treal\tbids/x.nii.gz\n")
    translate_cohort(runs[1], find_subjects(bids), out, missing=True)
    assert len(rows(out)) == 6


# --missing


@pytest.fixture
def doubtful(bids):
    """The listing with a file that was not taken, which may be the T2w that sub-002 lacks."""
    from scansynth.data.not_taken import NotTaken

    path = bids / "sub-002" / "anat" / "sub-002_t2.nii.gz"
    one = NotTaken(path, "no BIDS suffix", "sub-002", ("T2w",), True)
    return replace(find_subjects(bids), not_taken=(one,))


def test_missing_refuses_what_may_be_there(runs, doubtful, tmp_path):
    with pytest.raises(
        InputError, match=r"may be it: 1, .*sub-002_t2.*may be sub-002 T2w \(no BIDS suffix.*accept not-taken"
    ):
        translate_cohort(runs[1], doubtful, tmp_path / "out", missing=True)
    assert not (tmp_path / "out").exists()
    translate_cohort(runs[1], doubtful, tmp_path / "all", target="T1w")  # nothing in doubt is made


def test_missing_makes_it_where_that_is_accepted(runs, doubtful, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "scansynth"):
        translate_cohort(runs[1], doubtful, tmp_path / "out", missing=True, accept=("not-taken",))
    (told,) = (one.getMessage() for one in caplog.records if "not taken" in one.getMessage())
    assert "no BIDS suffix (sub-002/anat/sub-002_t2.nii.gz)" in told
    (sidecar,) = (tmp_path / "out").rglob("*_T2w.json")
    assert json.loads(sidecar.read_text())["accepted"] == ["not-taken"]


def test_missing_by_the_command(runs, bids, tmp_path, capfd, caplog):
    (bids / "sub-002" / "anat" / "sub-002_T1w.nii.gz").rename(bids / "sub-002" / "anat" / "sub-002_T1w_eq.nii.gz")
    write_phantom_cohort(tmp_path / "new", 1, ("T2w",), layout="BIDS", **SMALL)
    (tmp_path / "new/sub-001/anat/sub-001_T2w.nii.gz").rename(bids / "sub-002/anat/sub-002_T2w.nii.gz")
    command = ["translate", "--run", str(runs[1].folder), "-i", str(bids), "-o", str(tmp_path / "out")]
    command += ["--missing", "--target", "T1w", "--device", "cpu"]
    assert main(command) == 1
    assert "sub-002_T1w_eq.nii.gz" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    caplog.clear()
    assert main([*command, "--accept", "not-taken"]) == 0
    assert "sub-002_T1w_eq.nii.gz" in caplog.text  # it is told all the same
    assert main([*command, "--accept", "not-takn"]) == 1
    assert "no rule of that name" in capfd.readouterr().err
