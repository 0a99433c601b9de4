"""A leaderboard: equal cost, claims that outlive no process, and one table by one worker, by two, or after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import scansynth
from conftest import toy_settings
from scansynth import claims
from scansynth.claims import Claims
from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.downstream import ACQUIRED, WHOLE, WITHOUT, Dice
from scansynth.files import HERE
from scansynth.leaderboard import board, rates, work
from scansynth.leaderboard.fitting import sorted_out
from scansynth.leaderboard.plan import foresee
from scansynth.leaderboard.rates import Rate, write_rate
from scansynth.leaderboard.request import Request, parse_recipes, parse_task
from scansynth.methods import METHODS
from scansynth.progress import silent
from scansynth.recipes import RECIPES
from scansynth.training.checkpoint_folder import current, step_of

CPU = torch.device("cpu")
TOYS = {"regression_small": ("regression", {}), "drawing_small": ("flow", {"start": "regression"})}
"""Recipes at toy size; the second draws, and builds on the first."""
STEPS = 16


def toys():
    """The recipes that a process of these tests knows."""
    training = Training(batch_size=2, checkpoint_minutes=0.0)
    return {
        name: lambda method=method, changes=changes: RunConfig(
            method, replace(toy_settings(method), **changes), training=training
        )
        for name, (method, changes) in TOYS.items()
    }


@pytest.fixture
def only_toys(monkeypatch):
    for name in list(RECIPES):
        monkeypatch.delitem(RECIPES, name)
    for name, recipe in toys().items():
        monkeypatch.setitem(RECIPES, name, recipe)


def asked(cohort, out, **changes):
    return Request(
        **{
            "cohort": cohort, "out": out, "sources": ("T1w",), "target": "T2w", "minutes": 1.0,
            "recipes": parse_recipes(()), "seeds": (0,), "samples": 2, "defaults": True, "device": CPU,
        } | changes,
    )  # fmt: skip


def begun(request):
    """Its costs written down, as if measured: `STEPS` steps for all minutes, half of them for half."""
    request.begin(0.01)
    for name in TOYS:
        write_rate(request, name, Rate.of(60 * request.minutes / STEPS / 0.01, 0.01, request.minutes))
    return request


# Claims


def test_a_claim_is_of_one_at_a_time(tmp_path):
    mine, other = Claims(tmp_path), Claims(tmp_path)
    with mine.claimed("a") as first, other.claimed("a") as second, other.claimed("b") as third:
        assert (first, second, third) == (True, False, True)
    with other.claimed("a") as again:
        assert again
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def gone():
    """Number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_claim_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path, gone):
    (tmp_path / "a.0").write_text(f"{gone}-{HERE}")
    (tmp_path / "b.0").write_text(f"{os.getpid()}-{HERE}")  # of an earlier process of this number
    for job in "ab":
        with Claims(tmp_path).claimed(job) as mine:
            assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_is_taken_over_when_nobody_touches_it(tmp_path):
    path = tmp_path / "a.0"
    path.write_text(f"{os.getpid()}-00000000")
    with Claims(tmp_path).claimed("a") as mine:
        assert not mine
    old = time.time() - claims.LOST - 5
    os.utime(path, (old, old))
    owner = Claims(tmp_path)
    with Claims(tmp_path).claimed("a") as mine:
        assert mine
        owner._release("a", path)  # who was only asleep removes nobody else's
        assert {one.name for one in tmp_path.iterdir()} == {"a.0", "a.1"}
        with Claims(tmp_path).claimed("a") as third:
            assert not third
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_touched_while_its_holder_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with Claims(tmp_path).claimed("a"):
        os.utime(tmp_path / "a.0", (0, 0))
        end = time.monotonic() + 30
        while (tmp_path / "a.0").stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


# What is trained, and for how long


@pytest.fixture
def clock(monkeypatch):
    """A clock that work moves: seconds of a step by method, and of the yardstick; a factor makes the machine busy."""
    moved = {"now": 0.0, "regression": 2.0, "flow": 0.5, "yardstick": 0.25, "turns": 0}

    def busy():
        moved["turns"] += 1
        return 3.0 if moved["turns"] % 4 < 2 else 1.0

    def work_of(name):
        def one():
            factor = busy() if name != "yardstick" else 3.0 if moved["turns"] % 4 < 2 else 1.0
            moved["now"] += factor * moved[name]

        return one

    monkeypatch.setattr(rates.time, "process_time", lambda: moved["now"])
    monkeypatch.setattr(rates, "yardstick", lambda device: work_of("yardstick"))
    monkeypatch.setattr(rates, "trial_step", lambda config, *others, share: work_of(config.method))
    return moved


def test_steps_are_in_inverse_ratio_to_the_time_of_a_step(cohort, tmp_path, only_toys, clock):
    request = asked(cohort, tmp_path / "out", minutes=10)
    plan = foresee(replace(request), silent)
    by_name = {one.name: one for one in (*plan.trainings, *plan.stages)}
    yardstick = plan.rates["regression_small"].seconds / plan.rates["regression_small"].ratio
    assert plan.rates["regression_small"].ratio == pytest.approx(2.0 / 0.25)
    assert plan.rates["drawing_small"].ratio == pytest.approx(0.5 / 0.25)
    whole = by_name["regression_small-0"].config.training.steps
    assert whole == round(600 / (8 * yardstick))
    own, stage = by_name["drawing_small-0"], by_name["regression_small_first_stage-0"]
    assert own.stage == stage
    assert own.config.training.steps == round(300 / (2 * yardstick))
    assert stage.config.training.steps == round(300 / (8 * yardstick))
    seconds = {"regression": 2.0, "flow": 0.5}
    cost = [one.config.training.steps * seconds[one.config.method] for one in (own, stage)]
    assert sum(cost) == pytest.approx(whole * 2.0, rel=0.02)
    assert not request.out.exists()


def test_what_a_step_costs_is_measured_once(cohort, tmp_path, only_toys, clock):
    request = asked(cohort, tmp_path, minutes=10)
    plan = work.agreed(request, Claims(tmp_path / "claims"), silent)
    written = json.loads((tmp_path / "rates/regression_small.json").read_text())
    assert written["steps"] == plan.trainings[0].config.training.steps
    clock["regression"] = 50.0  # another machine, or a busy one
    again = work.agreed(asked(cohort, tmp_path, minutes=10, seeds=(0, 1)), Claims(tmp_path / "claims"), silent)
    assert again.rates == plan.rates
    assert [one.config.training.steps for one in again.trainings] == 2 * [
        one.config.training.steps for one in plan.trainings
    ]
    with pytest.raises(InputError, match=r"holds another benchmark \(minutes 10\.0 there, 5\.0 here\)"):
        asked(cohort, tmp_path, minutes=5).begun()


def test_a_trial_steps_through_the_phases_of_a_training(cohort, tmp_path, only_toys, monkeypatch):
    """A real trial: the steps are the method's own, at places from the beginning to near the end."""
    seen = []
    real = METHODS["regression"].load().training_step

    def noting(method, batch, update, progress, noise):
        seen.append(progress.fraction)
        return real(method, batch, update, progress, noise)

    monkeypatch.setattr(METHODS["regression"].load(), "training_step", noting)
    assert rates.measured_ratio(asked(cohort, tmp_path), "regression_small", None) > 0
    assert seen == pytest.approx([0.0, 0.0, 0.0, 0.2, 0.4, 0.6, 0.8], abs=1e-3)


def test_every_method_fits_or_says_why_not(cohort, tmp_path, monkeypatch):
    for name in list(RECIPES):
        monkeypatch.delitem(RECIPES, name)
    for method in METHODS:
        monkeypatch.setitem(RECIPES, f"{method}_small", lambda method=method: RunConfig(method, toy_settings(method)))
    fits, reasons = sorted_out(asked(cohort, tmp_path))
    assert {one.recipe for one in fits} | reasons.keys() == {f"{method}_small" for method in METHODS}
    assert "translates nothing" in reasons.pop("autoencoder_small")
    for recipe, reason in reasons.items():
        assert "volumes without a source" in reason, recipe
    stages = {one.recipe: one.stage for one in fits}
    assert stages["regression_small"] is None
    assert stages["ldm_small"] == stages["cola_diff_small"] == "autoencoder_small"


def test_what_does_not_fit_says_what_it_lacks(gridded, tmp_path, monkeypatch, only_toys):
    """A cohort without tissue; patches larger than its scans."""
    tiny = toy_settings("cola_diff")
    monkeypatch.setitem(RECIPES, "tissue_small", lambda: RunConfig("cola_diff", tiny))
    monkeypatch.setitem(RECIPES, "autoencoder_small", lambda: RunConfig("autoencoder", toy_settings("autoencoder")))
    large = replace(toy_settings("regression"), patch=(64, 64, 64))
    monkeypatch.setitem(RECIPES, "patches_small", lambda: RunConfig("regression", large))
    fits, reasons = sorted_out(asked(gridded, tmp_path))
    assert [one.recipe for one in fits] == ["regression_small", "drawing_small"]
    assert "tissue" in reasons["tissue_small"]
    assert "64×64×64" in reasons["patches_small"]
    with pytest.raises(InputError, match=r"no recipe fits T1w→T2w on .*patches_small: "):
        sorted_out(asked(gridded, tmp_path, recipes=("patches_small",)))


def test_tasks_and_recipes_are_named(cohort):
    assert parse_task(cohort, (), None) == (("T1w",), "T2w")
    assert parse_task(cohort, ("t2",), "T1w") == (("T2w",), "T1w")
    with pytest.raises(InputError, match=r"contrast 'FLAIR' is not in .*, which has T1w, T2w"):
        parse_task(cohort, (), "FLAIR")
    with pytest.raises(InputError, match="T2w is both --source and --target"):
        parse_task(cohort, ("T1w", "T2w"), "T2w")
    several = Cohort(cohort.folder, {**cohort.index, "contrasts": ["T1w", "T2w", "FLAIR"]})
    with pytest.raises(InputError, match="say which one is made, --target FLAIR"):
        parse_task(several, (), None)
    small = parse_recipes(())
    assert {"regression_small", "syndiff_small"} <= {*small}
    assert all(name.endswith("_small") for name in small)
    assert parse_recipes(("syndiff-small-*",)) == tuple(name for name in RECIPES if name.startswith("syndiff_small_"))
    with pytest.raises(InputError, match="recipe 'regresion_small' is unknown: did you mean regression_small"):
        parse_recipes(("regresion_small",))


# The whole


def finished(run):
    """Steps of a run that are done and saved."""
    newest = current(run / "last")
    assert newest is not None
    return step_of(newest)


def figures_of(out):
    """A table without what no two runs have the same: seconds and memory, and where it lies."""
    table = json.loads((out / "table.json").read_text())
    return [{**row, "cost": row["cost"] and row["cost"]["parameters"]} for row in table["rows"]], table["of"]


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    """A leaderboard that nothing stopped: its request and the stages that it told of."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        for name in list(RECIPES):
            patch.delitem(RECIPES, name)
        for name, recipe in toys().items():
            patch.setitem(RECIPES, name, recipe)
        request = begun(asked(cohort, tmp_path_factory.mktemp("whole") / "out", seeds=(0, 1)))
        work.benchmark(request, lambda event: told.append(event.what))
    return request, told


def test_the_table_has_recipes_trainings_and_the_copied_source(whole):
    request, _ = whole
    with (request.out / "table.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["seed"], row["trainings"]) for row in rows] == [("", "2"), ("0", "1"), ("1", "1")] * 2 + [("", "0")]
    assert {row["recipe"] for row in rows} == {*TOYS, "copied source"}
    assert rows[-1]["recipe"] == "copied source"
    for mean, *own in (rows[:3], rows[3:6]):
        for column in ("psnr_db", "ssim_percent", "texture_similarity_percent", "slice_jumps"):
            assert float(mean[column]) == pytest.approx(sum(float(row[column]) for row in own) / 2)
        assert {row["recipe"] for row in own} == {mean["recipe"]}
        assert all(float(row["seconds_a_volume"]) > 0 and int(row["parameters"]) > 0 for row in own)
        draws = mean["recipe"] == "drawing_small"
        assert (mean["coverage_of_90"] != "") == draws
        assert (mean["steps"], mean["first_stage_steps"]) == (
            (str(STEPS // 2), str(STEPS // 2)) if draws else (str(STEPS), "")
        )
    assert float(rows[0]["psnr_db"]) >= float(rows[3]["psnr_db"])
    text = (request.out / "table.md").read_text()
    assert "# T1w→T2w, 1 minutes a training" in text
    assert "No p-values: they are given from 6 subjects on." in text
    assert "Differences to the best" in text
    assert 'id="leaderboard"' in (request.out / "evaluation/report.html").read_text()


def test_runs_are_ordinary_run_folders(whole, capsys):
    request, _ = whole
    runs = sorted(one.name for one in (request.out / "runs").iterdir() if not one.name.startswith("."))
    assert runs == sorted(f"{name}-{seed}" for name in (*TOYS, "regression_small_first_stage") for seed in (0, 1))
    for name in runs:
        steps = STEPS if name.startswith("regression_small-") else STEPS // 2
        assert finished(request.out / "runs" / name) == steps
    assert main(["runs", str(request.out)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in runs)
    assert list((request.out / "claims").iterdir()) == []


CODE = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_leaderboard import toys
from scansynth.recipes import RECIPES
RECIPES.clear()
RECIPES.update(toys())
from scansynth.leaderboard import work
work.PAUSE = 0.1
{before}
from scansynth.cli import main
sys.exit(main({arguments!r}))
"""
KILLED = """
import os, signal
from scansynth.training.loop import Loop
save, runs = Loop.save, []
def save_and_die(self, done):
    save(self, done)
    runs.append(self.run)
    if self.run != runs[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Loop.save = save_and_die
"""
"""In the middle of the second training, which has saved something."""


def started(request, log, before=""):
    """The same leaderboard, by the command and in a process of its own."""
    arguments = ["benchmark", str(request.cohort.folder), "-o", str(request.out), "--minutes", "1", "--seeds", "0", "1"]
    arguments += ["--samples", "2", "--defaults", "--device", "cpu"]
    code = CODE.format(tests=str(Path(__file__).parent), arguments=arguments, before=before)
    environment = {**os.environ, "PYTHONPATH": str(Path(scansynth.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment
    )


def wait_for(there, process):
    end = time.monotonic() + 300
    while not there():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end
        time.sleep(0.005)


def test_two_share_the_work_and_one_is_killed_and_it_is_the_same_table(whole, tmp_path, only_toys, monkeypatch):
    done, all_of_it = whole
    request = begun(replace(done, out=tmp_path / "out"))
    other = started(request, tmp_path / "log", KILLED)
    wait_for(lambda: f"{other.pid}-{HERE}" in holders(request), other)
    monkeypatch.setattr(work, "PAUSE", 0.05)
    told = []

    def report(event):
        """While this process trains, the other one ends a training, begins the next one, and is killed."""
        if not told and event.what.startswith("training"):
            assert other.wait(timeout=300) == -signal.SIGKILL, (tmp_path / "log").read_text()
            assert f"{other.pid}-{HERE}" in holders(request)
            assert 0 < finished(request.out / "runs/regression_small-0") < STEPS
        if event.what.startswith(("training", "drawing")):
            told.append(event.what)

    work.benchmark(request, report)
    assert figures_of(request.out) == figures_of(done.out)
    jobs = {what for what in all_of_it if what.startswith(("training", "drawing"))}
    assert jobs - {*told} == {"training regression_small_first_stage-0"}
    assert told[0] == "training regression_small_first_stage-1"
    assert "training regression_small-0" in told
    log = (tmp_path / "log").read_text()
    assert "training regression_small_first_stage-0 (" in log
    assert "training regression_small_first_stage-1" not in log
    assert list((request.out / "claims").iterdir()) == []


def test_whoever_sees_all_done_writes_the_table_once(whole, only_toys, monkeypatch):
    """Two workers at the end at once, in threads: claims of one process hold for all of its workers."""
    request, _ = whole
    table, written = request.out / "table.json", []
    before = table.read_text()

    def write(plan, failed, report):
        written.append(threading.get_ident())
        time.sleep(0.2)
        table.write_text(before)

    monkeypatch.setattr(work, "write_board", write)
    monkeypatch.setattr(work, "PAUSE", 0.05)
    table.unlink()
    workers = [threading.Thread(target=work.benchmark, args=(replace(request), silent)) for _ in range(2)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(timeout=60)
    assert len(written) == 1
    assert table.is_file()


def holders(request):
    found = []
    for one in (request.out / "claims").glob("*.*"):
        try:
            found.append(one.read_text())
        except FileNotFoundError:
            continue
    return found


def test_what_fails_has_a_line_and_keeps_no_other_back(whole, tmp_path, only_toys, monkeypatch, caplog):
    """Two more recipes and one test in the folder that there is; Dice of a mask stands beside."""
    done, _ = whole
    for name in ("refused_small", "broken_small"):
        monkeypatch.setitem(RECIPES, name, RECIPES["regression_small"])
    request = replace(done, recipes=("regression_small", "refused_small", "broken_small"), seeds=(0,))
    rate = json.loads((request.out / "rates/regression_small.json").read_text())
    for name in ("refused_small", "broken_small"):
        write_rate(request, name, Rate(**rate))
    trained = []

    def failing(config, cohort, folder, **others):
        trained.append(folder.name)
        raise InputError("the loss is infinite") if folder.name.startswith("refused") else RuntimeError("no such layer")

    monkeypatch.setattr(work, "train", failing)
    monkeypatch.setattr(board, "mask_of", lambda *arguments: "seg")
    monkeypatch.setattr(board, "left_out", lambda *arguments: [])
    found = {"regression_small-0": 0.625, ACQUIRED: 0.75, WITHOUT: 0.5}
    dice = [Dice(label, "T2w", "a", {WHOLE: value}) for label, value in found.items()]
    monkeypatch.setattr(board, "measure_downstream", lambda *arguments, **others: dice)
    monkeypatch.setattr("scansynth.leaderboard.table.left_out", lambda *arguments: [])
    before = (request.out / "table.md").read_text()
    try:
        text = work.benchmark(request, silent).read_text()
        assert trained == ["refused_small-0", "broken_small-0"]
        assert "refused_small-0 has no row: the loss is infinite" in text
        assert "broken_small-0 has no row: RuntimeError: no such layer" in text
        assert "| regression_small | 0 | T1w→T2w |" in text
        assert "drawing_small" not in text
        assert "coverage" not in text.lower()  # nothing draws any more
        assert "| Dice |" in text.splitlines()[2]
        assert "0.625" in text
        assert "acquired 0.750, left out 0.500" in text
        work.benchmark(request, silent)  # which failed is not tried again before its note is deleted
        assert len(trained) == 2
    finally:
        (request.out / "table.md").write_text(before)


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(cohort, tmp_path, only_toys, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "autoencoder_small", lambda: RunConfig("autoencoder", toy_settings("autoencoder")))
    monkeypatch.setattr(
        rates, "measured_ratio", lambda request, recipe, stage: {"regression_small": 30.0}.get(recipe, 10.0)
    )
    monkeypatch.setattr("scansynth.leaderboard.plan.measured_yardstick", lambda device: 0.01)
    arguments = ["benchmark", str(cohort.folder), "-o", str(tmp_path / "out"), "--minutes", "3", "--dry-run"]
    assert main([*arguments, "--seeds", "0", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| regression_small | 0.3 | 600 | – | 0 of 2 |" in printed
    assert "| drawing_small | 0.1 | 900 | regression_small, 300 | 0 of 2 |" in printed
    assert "In all 4 trainings of 3 minutes" in printed
    assert "0.20 processor hours of one thread, 0.20 of them left" in printed
    assert "- autoencoder_small: it makes a contrast from itself" in printed
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(cohort, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert main(["benchmark", str(cohort.folder), "-o", str(tmp_path), "--minutes", "1", "--methods", "ldm_small"]) == 1
    assert "not a folder of `scansynth benchmark` and not empty" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]
