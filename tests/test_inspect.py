"""A run that somebody sent: what is told of it, and that whatever is off with it is seen before it is used."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scansynth.cli import main
from scansynth.errors import InputError
from scansynth.files import sha256_of
from scansynth.synthesis.inspection import inspect
from scansynth.synthesis.run import Run
from scansynth.training import checkpoint
from scansynth.training.train import train


@pytest.fixture(scope="module")
def trained(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "run"
    train(tiny(steps=2), cohort, folder, device=torch.device("cpu"))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_what_a_run_is_wants_and_was_trained_on(run, cohort, capsys):
    found = inspect(run)
    assert found.off == ()
    assert found.told["contrasts"] == ["T1w", "T2w"]
    assert found.told["makes"] == ["T1w", "T2w"]
    assert found.told["trained on"]["people"] == {"train": 4, "val": 1, "test": 1}
    assert found.told["trained on"]["cohort"] == cohort.fingerprint
    assert found.told["wants"]["grid"] == [32, 32, "as it is"]
    newest = checkpoint.current(run / "last")
    assert found.told["weights"]["last"] == {"step": 2, "sha256": sha256_of(newest / "weights.safetensors")}
    assert main(["inspect", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "Nothing is off." in printed
    assert not any(subject in printed for subject in cohort.subjects())  # people are counted, not named
    assert main(["inspect", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**json.loads(json.dumps(found.told)), "off": []}


def other_weights(run):
    """Of the same shapes, and with the hash that the state has of them: only the file tells."""
    path = checkpoint.current(run / "last") / "weights.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)


def longer_settings(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("channels: 8", "channels: 60000"))


def no_people(run):
    (run / "preparation.json").unlink()


def link_out(run):
    path = checkpoint.current(run / "last") / "optimizers.safetensors"
    other = run.parent / "elsewhere.safetensors"
    path.rename(other)
    os.symlink(other, path)


def link_in_a_circle(run):
    os.symlink(run / "b", run / "a")
    os.symlink(run / "a", run / "b")


def optimizers(run):
    (checkpoint.current(run / "last") / "optimizers.safetensors").write_bytes(b"\0" * 100)


FAULTS = {
    other_weights: "weights.safetensors is not what was saved",
    longer_settings: "config.yaml: networks of more numbers",
    no_people: "preparation.json: missing", link_out: "a link that leads out of the run's folder",
    link_in_a_circle: "a link that leads out of the run's folder", optimizers: "checkpoint",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_off_is_said(run, capsys, fault):
    fault(run)
    found = inspect(run)
    assert any(FAULTS[fault] in line for line in found.off)
    assert all(str(run) in line for line in found.off)
    assert main(["inspect", str(run)]) == 1
    said = capsys.readouterr()
    assert "off: " in said.out
    assert "Nothing is off" not in said.out
    assert str(run) in said.err


def test_no_run_follows_links_out_of_its_folder(run):
    link_out(run)
    with pytest.raises(InputError, match="leads out of the run's folder"):
        Run.load(run, "cpu")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("here",)


def test_what_is_no_part_of_a_run_is_told_and_never_opened(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (run / "weights.pt").write_bytes(pickle.dumps(Bomb()))
    (run / "sitecustomize.py").write_text("raise SystemExit(9)")
    found = inspect(run)
    assert found.told["no part of a run, and never opened"] == ["sitecustomize.py", "weights.pt"]
    assert found.off == ()
    assert not (tmp_path / "here").exists()


def test_what_is_no_folder_is_refused(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
