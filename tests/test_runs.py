"""The runs under a folder, listed: finished, stopped, at work, exported, damaged, and of names that nobody gives."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scansynth.cli import main
from scansynth.commands.runs import aligned, one_line, size_text
from scansynth.data.record import FILE as PREPARATION
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.files import sha256_of
from scansynth.synthesis.card import FILE as CARD
from scansynth.training import checkpoint, listing
from scansynth.training.first_stage import FOLDER as FIRST_STAGE
from scansynth.training.listing import list_runs
from scansynth.training.run_folder import locked
from scansynth.training.train import train

HOSTILE = "a [bold]b <b>c\nd\x1b[31m"


@pytest.fixture(scope="module")
def trained(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("listed") / "run"
    train(tiny(steps=4, validate_every=2), cohort, folder, device=torch.device("cpu"))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "deep/er/run")


def test_names_are_those_of_what_writes_them():
    assert (listing.PREPARATION, listing.CARD) == (PREPARATION, CARD)
    assert FIRST_STAGE in listing.WITHIN


def test_a_finished_run(run, tmp_path):
    (found,) = list_runs(tmp_path)
    assert found.folder == run
    assert found.state == "finished"
    assert found.fault is None
    assert (found.method, found.contrasts) == ("regression", ("T1w", "T2w"))
    assert (found.done, found.steps, found.validated) == (4, 4, 4)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (last,) = (line for line in lines if line["step"] == 4 and "validation/psnr" in line)
    assert found.psnr == {target: last[f"validation/{target}/psnr"] for target in ("T1w", "T2w")}
    assert found.loss is None
    files = [path for path in run.rglob("*") if path.is_file()]
    assert found.size == sum(path.stat().st_size for path in files)
    assert found.changed == max(path.stat().st_mtime for path in files)
    assert list_runs(run) == [found]  # the folder itself may be one


def test_a_stopped_run_and_one_that_has_not_begun(run, tmp_path):
    settings = run / "config.yaml"
    settings.write_text(settings.read_text().replace("steps: 4\n", "steps: 400\n"))
    new = shutil.copytree(run, tmp_path / "new")
    for name in ("last", "best", "validation"):
        shutil.rmtree(new / name)
    (new / "metrics.jsonl").unlink()
    stopped, begun = list_runs(tmp_path)
    assert (stopped.state, stopped.done, stopped.steps) == ("stopped", 4, 400)
    assert (begun.state, begun.done, begun.psnr, begun.fault) == ("stopped", 0, None, None)


def test_a_training_at_work(run, tmp_path):
    with locked(run, Processes(torch.device("cpu"))):
        assert list_runs(tmp_path)[0].state == "training"
    assert list_runs(tmp_path)[0].state == "finished"


def test_an_exported_run(run, tmp_path):
    (run / CARD).write_text("{}")
    shutil.rmtree(run / "best")
    (run / "metrics.jsonl").unlink()
    (found,) = list_runs(tmp_path)
    assert (found.state, found.done, found.fault) == ("exported", 4, None)


def test_a_generators_figure_is_its_loss(run, tmp_path):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "validation/loss": 0.125}\n{"step": 6, "regression/l1": 1.0}\n')
    (found,) = list_runs(tmp_path)
    assert (found.validated, found.loss, found.psnr) == (5, 0.125, None)


def no_settings(run):
    (run / "config.yaml").unlink()


def other_yaml(run):
    (run / "config.yaml").write_text("method: [regression\n")


def no_method(run):
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("method: regression", "method: magic"))


def no_steps(run):
    (run / "config.yaml").write_text("method: regression\ncontrasts: [T1w]\ntraining: {}\n")


def no_people(run):
    (run / PREPARATION).unlink()


def short_weights(run):
    (checkpoint.current(run / "last") / "weights.safetensors").write_bytes(b"\0" * 40)


def no_pointer(run):
    (run / "last/current").unlink()


def lost_pointer(run):
    (run / "last/current").write_text("../../elsewhere")


def cut_state(run):
    path = checkpoint.current(run / "last") / "state.json"
    path.write_bytes(path.read_bytes()[:20])


def cut_metrics(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{\n")


def link_out(run):
    (run / "config.yaml").rename(run.parent / "elsewhere.yaml")
    os.symlink(run.parent / "elsewhere.yaml", run / "config.yaml")


def link_in_a_circle(run):
    os.symlink(run / "b", run / "a")
    os.symlink(run / "a", run / "b")


FAULTS = {
    no_settings: "config.yaml: no such settings file",
    other_yaml: "config.yaml: not a YAML settings file",
    no_method: "method 'magic' is unknown",
    no_steps: "'steps' is missing",
    no_people: "preparation.json: missing",
    short_weights: "the checkpoint is damaged",
    no_pointer: "current: names no checkpoint: step 4 is taken",
    lost_pointer: "which is no checkpoint beside it",
    cut_state: "the checkpoint is damaged",
    cut_metrics: "metrics.jsonl line",
    link_out: "leads out of the run's folder",
    link_in_a_circle: "leads out of the run's folder",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_run_is_a_line_and_hides_no_other(run, tmp_path, fault, capsys):
    whole = shutil.copytree(run, tmp_path / "whole")
    fault(run)
    found = {one.folder: one for one in list_runs(tmp_path)}
    assert set(found) == {run, whole}
    assert found[whole].state == "finished"
    assert found[run].state == "damaged"
    assert FAULTS[fault] in found[run].fault
    assert "\n" not in found[run].fault
    assert found[run].size > 0
    assert main(["runs", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    (line,) = (line for line in printed.out.splitlines() if line.startswith(f"{run} "))
    assert " damaged " in line
    assert FAULTS[fault] in line
    assert printed.err == ""


def test_a_damaged_run_tells_what_can_be_read(run, tmp_path):
    no_people(run)
    (found,) = list_runs(tmp_path)
    assert (found.method, found.done, found.steps) == ("regression", 4, 4)
    assert found.psnr is not None


def test_a_checkpoint_that_is_replaced_meanwhile_is_no_damage(run, tmp_path, monkeypatch):
    seen = []

    def replaced(path):
        if not seen:  # as if the training had written the next one between the pointer and the look at it
            seen.append(path)
            path.rename(path.with_name("step-00000005"))
            state = json.loads((path.with_name("step-00000005") / "state.json").read_text())
            (path.with_name("step-00000005") / "state.json").write_text(json.dumps(state | {"step": 5}))
            (path.parent / "current").write_text("step-00000005")
        return is_whole(path)

    is_whole = listing.is_whole
    shutil.rmtree(run / "best")
    monkeypatch.setattr(listing, "is_whole", replaced)
    (found,) = list_runs(tmp_path)
    assert (found.done, found.fault) == (5, None)


def test_what_is_no_run_is_not_listed(run, tmp_path):
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra/config.yaml").write_text("method: x\n")
    shutil.copytree(run, run / FIRST_STAGE)  # a copy of another, which is part of this one
    shutil.copytree(run, tmp_path / ".run.overwritten")
    os.symlink(run, tmp_path / "link")
    os.symlink(tmp_path, tmp_path / "loop")
    assert [one.folder for one in list_runs(tmp_path)] == [run]


def test_none(tmp_path, capsys):
    assert list_runs(tmp_path) == []
    assert main(["runs", str(tmp_path)]) == 0
    assert "no runs here; `scansynth train` makes one" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    for place in (tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(InputError, match="no folder that can be read"):
            list_runs(place)
        assert main(["runs", str(place)]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_hostile_name_is_one_line(run, tmp_path, capsys):
    hostile = run.rename(run.with_name(HOSTILE))
    undecodable = shutil.copytree(hostile, os.path.join(tmp_path, os.fsdecode(b"\xff\xfe")))
    assert [one.folder for one in list_runs(tmp_path)] == [hostile, Path(undecodable)]
    assert main(["runs", str(tmp_path)]) == 0
    heading, first, second, follows = capsys.readouterr().out.splitlines()
    assert first.startswith(
        f"{tmp_path}/deep/er/a [bold]b <b>c\\nd\\x1b[31m  regression  T1w, T2w   4/4    finished  T1w "
    )
    assert second.startswith(f"{tmp_path}/\\udcff\\udcfe ")
    assert first.index("regression") == second.index("regression") == heading.index("method")
    assert follows == "Next, for all of one: scansynth inspect RUN"
    assert main(["runs", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["folder"] for one in told] == [str(hostile), str(undecodable)]
    assert told[0]["state"] == "finished"
    assert told[0]["psnr"].keys() == {"T1w", "T2w"}


def table(weights, label="run", psnr=23.456):
    row = {"direction": "T1w→T2w", "n_subjects": 3, "n_slices": None, "slices": {}}
    return {
        "protocol": {"name": "default", "version": 2}, "weights": weights,
        "rows": [
            {"label": "copied source", **row, "subjects": {"psnr_db": {"mean": 1.0, "std": None}}},
            {"label": label, **row, "subjects": {"psnr_db": {"mean": psnr, "std": 1.0}, "mae": {"mean": None}}},
        ],
    }  # fmt: skip


def test_figures_of_an_evaluation_of_these_weights_stand_beside(run, tmp_path, capsys):
    digest = sha256_of(checkpoint.current(run / "last") / "weights.safetensors")
    best = sha256_of(checkpoint.current(run / "best") / "weights.safetensors")
    kinds = {best: "best", digest: "last"}
    contents = {
        "of it": table({"run": digest}), "of another": table({"run": "0" * 64}, psnr=99.0), "damaged": "[",
        "before": {name: part for name, part in table({}).items() if name != "weights"}, "other": [1, 2],
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.json").write_text(json.dumps(content) if content != "[" else content)
    (found,) = list_runs(tmp_path)
    (row,) = found.evaluations
    assert row.folder == tmp_path / "of it"
    assert (row.direction, row.protocol, row.subjects, row.weights) == ("T1w→T2w", "default 2", 3, kinds[digest])
    assert row.figures == {"psnr_db": 23.456, "mae": None}
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/table.json").write_text(json.dumps(table({"run": digest}, psnr="inf")))
    os.utime(tmp_path / "newer/table.json", (time.time() + 60,) * 2)
    (found,) = list_runs(tmp_path)
    assert [one.folder.name for one in found.evaluations] == ["newer", "of it"]
    assert main(["runs", str(tmp_path)]) == 0
    assert "T1w→T2w 23.46 dB (default 2, n = 3)" in capsys.readouterr().out


def test_nothing_is_written_and_torch_is_not_loaded(run, tmp_path):
    def state():
        return {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = state()
    code = "import sys; from scansynth.cli import main; main(sys.argv[1:]); print([*sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "runs", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "finished" in done.stdout
    assert not {"torch", "matplotlib", "lightning"} & set(done.stderr.replace("'", "").split(", "))
    assert state() == before


def test_texts():
    assert [size_text(size) for size in (0, 999, 1000, 12_345_678, 2_500_000_000, 10**13)] == [
        "0 B", "999 B", "1 kB", "12 MB", "2.5 GB", "10000.0 GB",
    ]  # fmt: skip
    assert one_line("a b\n\t\x00é図\u202e") == "a b\\n\\t\\x00é図\\u202e"
    assert aligned([["a", "b"], ["図図", "c"]]) == ["a     b", "図図  c"]
    assert aligned([]) == []
