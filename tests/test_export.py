"""A run handed on: what goes along and what does not, bit-equal images, and refusals where something was changed."""

import json
import shutil
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.phantom import write_phantom_cohort
from scansynth.errors import InputError
from scansynth.files import sha256_of
from scansynth.records import sealed
from scansynth.sharing.export import Statement, export_run
from scansynth.synthesis import places
from scansynth.synthesis.inspection import inspect
from scansynth.synthesis.run import Run
from scansynth.training.train import train


@pytest.fixture(scope="module")
def trained(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "my run"
    train(tiny(steps=2), cohort, folder, device=torch.device("cpu"))
    return folder


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "given"
    statement = Statement(
        name="given", data="phantoms", data_licence="CC0-1.0", licence="CC-BY-4.0", limits=("Not for children.",)
    )
    return export_run(trained, out, statement)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(places.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def given(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "given")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    write_phantom_cohort(folder, 1, ("T1w",), layout="table", shape=(32, 32, 16), spacing=6.0, seed=5)
    return folder / "phantom001_T1w.nii.gz"


def translated(run, scan, out):
    assert main(["translate", "--run", str(run), "--t1w", str(scan), "--target", "T2w", "-o", str(out)]) == 0
    return np.asarray(nib.load(out).dataobj)


def test_an_export_makes_the_same_image_from_a_folder_and_an_archive(trained, given, scan, tmp_path):
    before = translated(trained, scan, tmp_path / "a.nii.gz")
    archive = export_run(trained, tmp_path / "run.zip", Statement(name="given"))
    for number, place in enumerate((given, archive)):
        made = translated(place, scan, tmp_path / f"{number}.nii.gz")
        assert np.array_equal(made, before)
        told = json.loads((tmp_path / f"{number}.json").read_text())
        own = json.loads((tmp_path / "a.json").read_text())
        assert told["weights"] == own["weights"]
        assert told["weights_chosen"] == own["weights_chosen"]
    assert json.loads((tmp_path / "1.json").read_text())["run"] == "given"
    assert scansynth.load(archive).card["name"] == "given"


def test_the_same_run_makes_the_same_archive(trained, tmp_path):
    one, other = (export_run(trained, tmp_path / name) for name in ("a.zip", "b.zip"))
    assert sha256_of(one) == sha256_of(other)


def test_what_was_stated_stays_when_an_exported_run_is_exported_again(given, tmp_path):
    before = json.loads((given / "card.json").read_text())
    out = export_run(given, tmp_path / "again", Statement(licence="MIT", limits=("Not for adults.",)))
    card = json.loads((out / "card.json").read_text())
    assert card["training_data"] == before["training_data"]
    assert card["weights"] == {**before["weights"], "licence": "MIT"}
    assert card["limits"] == [*before["limits"], "Not for adults."]
    assert card["name"] == "given"


def test_no_scan_and_no_name_goes_along(given, cohort):
    names = set(cohort.subjects())
    for path in given.rglob("*"):
        assert path.suffix not in (".png", ".jsonl", ".npz", ".b2nd"), path
        if path.is_file() and path.suffix != ".safetensors":
            assert not any(name in path.read_text() for name in names), path
    assert not list(given.rglob("optimizers.safetensors"))
    assert inspect(given).told["trained on"]["people"] == {"train": 4, "val": 1, "test": 1}


def test_the_card_says_what_it_is(given, capsys):
    card = json.loads((given / "card.json").read_text())
    assert card["makes"] == ["T1w", "T2w"]
    assert card["training_data"]["description"] == "phantoms"
    assert card["training_data"]["people"] == {"train": 4, "val": 1, "test": 1}
    assert "Not for children." in card["limits"]
    readme = (given / "README.md").read_text()
    for text in ("license: cc-by-4.0", "for research, never for diagnosis", "Not for children.", "None were measured"):
        assert text in readme
    assert main(["inspect", str(given)]) == 0
    assert "licence of the weights: CC-BY-4.0" in capsys.readouterr().out


def test_markup_in_what_is_stated_stays_text(trained, tmp_path):
    evil = "<script>alert(1)</script> | a | [x](y)\n# not a heading"
    out = export_run(trained, tmp_path / "x", Statement(data=evil, licence="a: b\n---", limits=(evil,)))
    readme = (out / "README.md").read_text()
    assert "<script>" not in readme
    assert "\n# not" not in readme
    assert readme.split("---")[1].count("\n") == 3  # the licence is no word, so that the Hub is told none


def test_ages_and_sex_are_numbers_of_all(phantoms, tiny, tmp_path):
    from dataclasses import replace

    from scansynth.data.build_cohort import build_cohort
    from scansynth.data.prepare import Preparation

    people = [{"age": str(age), "Sex": sex} for age, sex in zip((21, 95, 43, 44, 60, 70), "FMFMFM", strict=True)]
    subjects = tuple(replace(one, labels=own) for one, own in zip(phantoms.subjects, people, strict=True))
    cohort = build_cohort(replace(phantoms, subjects=subjects), tmp_path / "c", Preparation(size=(32, 32, None)))
    train(tiny(steps=1), cohort, tmp_path / "run", device=torch.device("cpu"))
    out = export_run(tmp_path / "run", tmp_path / "x", cohort=cohort)
    data = json.loads((out / "card.json").read_text())["training_data"]
    train_people = [cohort.labels(subject) for subject in cohort.subjects("train")]
    assert len(train_people) == 4
    assert data["age"] == "20 to 90 or more years, median 44, known of 4"  # the first four: 21, 95, 43, 44
    assert data["sex"] == "2 F, 2 M"


def test_figures_of_these_weights_alone_go_onto_the_card(trained, cohort, tiny, tmp_path):
    words = ["--cohort", str(cohort.folder), "--target", "T2w", "--pictures", "0"]
    assert main(["evaluate", "--run", str(trained), "-o", str(tmp_path / "e"), *words]) == 0
    out = export_run(trained, tmp_path / "x", evaluations=[tmp_path / "e"])
    own, copied = json.loads((out / "card.json").read_text())["figures"]
    table = json.loads((tmp_path / "e" / "table.json").read_text())
    assert (own["of"], copied["of"]) == ("this run", "copied source")
    (row,) = (row for row in table["rows"] if row["label"] == trained.name)
    assert own["figures"] == {name: value["mean"] for name, value in row["subjects"].items()}
    assert f"{own['figures']['psnr_db']:.4g}" in (out / "README.md").read_text()
    other = tmp_path / "other" / "my run"  # of the same name
    train(tiny(steps=3), cohort, other, device=torch.device("cpu"))
    with pytest.raises(InputError, match="figures of other weights"):
        export_run(other, tmp_path / "y", evaluations=[tmp_path / "e"])
    assert not (tmp_path / "y").exists()


def other_card(given, **changes):
    """A card that was changed with its own hash made anew, as somebody would who means it."""
    path = given / "card.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **changes})))


def edited_card(given):
    path = given / "card.json"
    path.write_text(path.read_text().replace("phantoms", "ten thousand people"))


def more_contrasts(given):
    other_card(given, contrasts=["T1w", "T2w", "FLAIR"])


def wider_input(given):
    card = json.loads((given / "card.json").read_text())
    other_card(given, input={**card["input"], "like": {"T1w": "any scan"}})


def other_settings(given):
    path = given / "config.yaml"
    path.write_text(path.read_text() + "\n")


def other_weights(given):
    (path,) = given.rglob("weights.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def added_intervals(given):
    (given / "intervals.json").write_text("{}")


def file_gone(given):
    (given / "environment.json").unlink()


def way_out(given):
    card = json.loads((given / "card.json").read_text())
    other_card(given, files={**card["files"], "../elsewhere": [0, ""]})


FAULTS = {
    edited_card: "it does not say what was written", more_contrasts: "says contrasts",
    wider_input: "says input", other_settings: "not what was exported", other_weights: "not what was exported",
    added_intervals: "no part of what was exported", file_gone: "missing, though it was exported",
    way_out: "not in its folder",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_changed_is_refused_and_told(given, fault, capsys):
    fault(given)
    with pytest.raises(InputError, match=FAULTS[fault]):
        Run.load(given, "cpu")
    assert main(["inspect", str(given)]) == 1
    assert FAULTS[fault] in capsys.readouterr().out
    assert main(["train", "regression_small", "--cohort", "none", "--run", "x", "--init", str(given)]) == 1


def test_an_exported_run_does_not_change(given, cohort, capsys):
    assert main(["train", "regression_small", "--cohort", str(cohort.folder), "--run", str(given)]) == 1
    assert "--init" in capsys.readouterr().err
    assert main(["calibrate", "--cohort", str(cohort.folder), "--run", str(given)]) == 1
    assert "before the export" in capsys.readouterr().err
    Run.load(given, "cpu")


def test_what_is_there_is_not_replaced(trained, given, tmp_path):
    for place in (given, tmp_path / "a.zip"):
        if not place.exists():
            place.write_text("mine")
        with pytest.raises(InputError, match="is there already"):
            export_run(trained, place)
    assert (tmp_path / "a.zip").read_text() == "mine"


def test_sources_of_another_contrast_are_refused(given, scan, tmp_path, capsys):
    assert main(["translate", "--run", str(given), "--flair", str(scan), "-o", str(tmp_path / "x.nii.gz")]) == 1
    assert "knows T1w, T2w" in capsys.readouterr().err


def archive_of(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def test_an_archive_of_the_folder_itself_is_taken_too(given, tmp_path):
    archive = archive_of(given, tmp_path / "sent.zip", "given/")
    assert Run.load(archive, "cpu").folder.name == "sent"
    assert Run.load(archive, "cpu").name == "given"  # the second time from the cache


def test_archives_of_other_things_and_ways_out_are_refused(trained, given, tmp_path, cache):
    with pytest.raises(InputError, match="no exported run"):
        Run.load(archive_of(trained, tmp_path / "run.zip"), "cpu")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match="cannot be unpacked"):
        Run.load(tmp_path / "text.zip", "cpu")
    with pytest.raises(InputError, match="does not exist"):
        Run.load(tmp_path / "none.zip", "cpu")
    archive = archive_of(given, tmp_path / "out.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../../../escaped", "x")
    Run.load(archive, "cpu")  # the member's way out is cut off, and it is no part of the run
    assert not list(tmp_path.glob("escaped*"))
    assert not list(tmp_path.parent.glob("escaped*"))
    assert [path.name for path in (cache / "runs").iterdir()] == [sha256_of(archive)[:32]]


class Hub:
    """The Hub as its client shows it, with one repository."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def model_info(self, name, revision=None):
        if name != "someone/t2":
            raise OSError("404 Client Error")
        self.asked.append(("info", revision))
        return type("Info", (), {"sha": "a" * 40})()

    def snapshot_download(self, name, *, revision, local_dir, allow_patterns):
        self.asked.append(("files", revision, tuple(allow_patterns)))
        shutil.copytree(self.folder, local_dir)


def test_a_run_of_the_hub_is_fetched_once_and_said(given, scan, tmp_path, monkeypatch, caplog):
    hub = Hub(given)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    caplog.set_level("INFO", "scansynth")
    run = Run.load("hf://someone/t2", "cpu")
    assert run.name == "given"
    assert "fetching revision aaaa" in caplog.text
    translated("hf://someone/t2", scan, tmp_path / "x.nii.gz")
    assert [one[0] for one in hub.asked] == ["info", "files", "info"]
    assert not any("py" in pattern or pattern == "*" for pattern in hub.asked[1][2])  # data alone
    assert Run.load(f"hf://someone/t2@{'a' * 40}", "cpu").name == "given"
    assert len(hub.asked) == 3  # what is named for good and is there is not asked for
    with pytest.raises(InputError, match=r"cannot be fetched \(OSError: 404"):
        Run.load("hf://someone/else", "cpu")
    with pytest.raises(InputError, match="write hf://owner/name"):
        Run.load("hf://someone", "cpu")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install"):
        Run.load("hf://someone/t2", "cpu")


def test_monais_own_command_makes_the_same_image(trained, given, scan, tmp_path):
    pytest.importorskip("monai")
    before = translated(trained, scan, tmp_path / "a.nii.gz")
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(given)]
    command += ["--config_file", str(given / "configs" / "inference.json"), "--device", "cpu"]
    command += ["--sources", json.dumps({"T1w": str(scan)}), "--target", "T2w", "--output", str(tmp_path / "b.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)
    assert np.abs(made - before).max() <= 1e-4 * np.abs(before).max()
    assert json.loads((tmp_path / "b.json").read_text())["synthetic"] is True
    metadata = json.loads((given / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"] == {"scansynth": scansynth.__version__}
