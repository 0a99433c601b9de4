"""Training: killed and resumed it is the same run; what does not fit is refused; what a run folder holds."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from conftest import CASES, first_stage_if
from scansynth.config import read_yaml
from scansynth.data.build_cohort import build_cohort
from scansynth.data.prepare import Preparation
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.methods.regression import RegressionConfig
from scansynth.training import checkpoint, loop
from scansynth.training.checkpoint import load_weights
from scansynth.training.engine import Engine
from scansynth.training.run_folder import locked
from scansynth.training.selection import RULE
from scansynth.training.train import train

CPU = torch.device("cpu")
FILES = ("weights", "averages", "optimizers")
LONG = ("cg_ddpm", "cola_diff", "syndiff unpaired", "ddpm on slices", "unit_ddpm")
"""Cases that train as long as the others together; each has a sister: `ddpm`, `ldm`, `syndiff`, `ddpm`, `syndiff`."""


class Killed(BaseException):
    """What ends a run from outside."""


def kill_at(step):
    def report(event):
        if event.done == step:
            raise Killed

    return report


def interrupted(config, cohort, run, step, first_stage=None):
    with pytest.raises(Killed):
        train(config, cohort, run, device=CPU, report=kill_at(step), first_stage=first_stage)


def metrics(run):
    """Lines of metrics.jsonl without what differs from run to run: the time they took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds_per_step"} for line in lines]


def contents(run):
    """Everything that two equal runs have equal."""
    last, best = checkpoint.current(run / "last"), checkpoint.current(run / "best")
    return {
        "last": (last.name, *checkpoint.load(last, *FILES)),
        "best": (best.name, *checkpoint.load(best, "weights")),
        "metrics": metrics(run),
    }


def assert_equal(a, b):
    assert a["metrics"] == b["metrics"]
    for part in ("last", "best"):
        (name_a, files_a, state_a), (name_b, files_b, state_b) = a[part], b[part]
        assert name_a == name_b
        assert state_a == state_b
        assert files_a.keys() == files_b.keys()
        for file in files_a:
            assert files_a[file].keys() == files_b[file].keys()
            for key, tensor in files_a[file].items():
                assert torch.equal(tensor, files_b[file][key]), f"{part} {file} {key}"


def with_training(config, **changes):
    return replace(config, training=replace(config.training, **changes))


@pytest.fixture(scope="module")
def finished(cohort, tiny, tmp_path_factory):
    """A run of the regression over ten steps, with a checkpoint and a validation every five; not to be changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    return train(tiny(checkpoint_every=5, validate_every=5), cohort, run, device=CPU), run


@pytest.fixture
def copied(finished, tmp_path):
    """The same, for changing."""
    config, run = finished
    shutil.copytree(run, tmp_path / "run")
    return config, tmp_path / "run"


@pytest.fixture
def stopped(cohort, tiny, tmp_path):
    """That run killed at step 7, after its checkpoint of step 5."""
    config = tiny(checkpoint_every=5, validate_every=5)
    interrupted(config, cohort, tmp_path / "run", 7)
    return config, tmp_path / "run"


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in CASES], indirect=True
)
def test_resumed_equals_uninterrupted_to_the_last_bit(case, cohort, tiny, first_stage, tmp_path):
    config, stage = tiny(*case, checkpoint_every=5, validate_every=5), first_stage_if(case[0], first_stage)
    train(config, cohort, tmp_path / "whole", device=CPU, first_stage=stage)
    interrupted(config, cohort, tmp_path / "resumed", 7, stage)  # its lines of step 6 are written again
    assert metrics(tmp_path / "resumed")[-1]["step"] == 6
    train(config, cohort, tmp_path / "resumed", device=CPU)
    whole = contents(tmp_path / "whole")
    assert [line["step"] for line in whole["metrics"]] == [2, 4, 5, 6, 8, 10, 10]
    assert_equal(whole, contents(tmp_path / "resumed"))


def test_a_finished_run_trains_on_when_it_gets_more_steps(cohort, tiny, tmp_path):
    """SynDiff's learning rate does not hang on the end: five steps and five more equal ten."""
    config = tiny("syndiff", validate_every=5, log_every=1, checkpoint_every=5)
    short = replace(config, training=replace(config.training, steps=5))
    train(short, cohort, tmp_path / "both", device=CPU)
    assert train(config, cohort, tmp_path / "both", device=CPU).training.steps == 10
    assert read_yaml(tmp_path / "both" / "config.yaml").training.steps == 10
    train(config, cohort, tmp_path / "whole", device=CPU)
    assert_equal(contents(tmp_path / "whole"), contents(tmp_path / "both"))


@pytest.mark.processor
def test_starting_a_finished_run_again_changes_nothing(copied, cohort):
    config, run = copied
    before = contents(run)
    assert train(config, cohort, run, device=CPU) == config
    assert_equal(contents(run), before)


def test_a_run_folder_holds_what_synthesis_and_people_need(finished):
    config, run = finished
    assert read_yaml(run / "config.yaml") == config
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    assert [path.name for path in (run / "last").glob("step-*")] == ["step-00000010"]
    lines = {line["step"]: line["validation/psnr"] for line in metrics(run) if "validation/psnr" in line}
    _, state = checkpoint.load(checkpoint.current(run / "best"), "weights")
    assert state.pop("files").keys() == {"weights.safetensors"}
    assert state == {
        "step": max(lines, key=lines.get), "validation_psnr": max(lines.values()), "subjects": 1, "rule": RULE,
    }  # fmt: skip
    pictures = sorted(path.name for path in (run / "validation").iterdir())
    assert pictures == [f"step-{step:08d}_{name}.png" for step in (5, 10) for name in ("T1w", "T2w")]
    assert all((run / "validation" / name).stat().st_size > 1000 for name in pictures)
    assert list((run / "tensorboard").iterdir())
    weights, source = load_weights(run)
    assert source.parent == run / "last"  # one subject cannot tell which are best
    assert {key.split("/")[0] for key in weights} == {"unet"}


def test_without_validation_subjects_the_last_averages_are_used(phantoms, tiny, tmp_path, caplog):
    subjects = tuple(subject for subject in phantoms.subjects if subject.split != "val")
    cohort = build_cohort(replace(phantoms, subjects=subjects), tmp_path / "cohort", Preparation(size=(32, 32, None)))
    train(tiny(steps=2), cohort, tmp_path / "run", device=CPU)
    assert "no validation subject" in caplog.text
    weights, source = load_weights(tmp_path / "run")
    files, state = checkpoint.load(source, "averages")
    assert state["best"] is None
    assert all(torch.equal(weights[key], tensor) for key, tensor in files["averages"].items())


def test_metrics_beyond_the_checkpoint_are_cut_back(stopped, cohort):
    config, run = stopped
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "G/l1": 0.5}\n{"step": 100, "G/')
    train(config, cohort, run, device=CPU)
    assert [line["step"] for line in metrics(run)] == [2, 4, 5, 6, 8, 10, 10]


def test_what_a_kill_leaves_of_a_checkpoint_is_no_hindrance(stopped, cohort, finished):
    config, run = stopped
    for leftover in (
        "last/step-00000006.tmp",
        "last/step-00000010.tmp",
        "last/step-00000010",
        "best/step-00000010.tmp",
    ):
        (run / leftover).mkdir(parents=True)
        (run / leftover / "weights.safetensors").write_bytes(b"half")
    train(config, cohort, run, device=CPU)
    assert_equal(contents(run), contents(finished[1]))
    assert [path.name for path in (run / "last").glob("step-*")] == ["step-00000010"]


@pytest.mark.processor
def test_a_kill_before_the_first_checkpoint_starts_anew(cohort, finished, tmp_path):
    config, run = finished
    interrupted(config, cohort, tmp_path / "run", 3)
    train(config, cohort, tmp_path / "run", device=CPU)
    assert_equal(contents(tmp_path / "run"), contents(run))


def test_a_kill_while_the_folder_is_made_is_no_hindrance(cohort, finished, tmp_path):
    config, run = finished
    (tmp_path / "run").mkdir()
    for name in ("environment.json", "preparation.json"):
        shutil.copy(run / name, tmp_path / "run")
    train(config, cohort, tmp_path / "run", device=CPU)
    assert_equal(contents(tmp_path / "run"), contents(run))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"settings": RegressionConfig(channels=16, multipliers=(1, 2))},
        {"contrasts": ("T2w", "T1w")},
        {"batch_size": 3},
    ],
)
def test_other_settings_are_refused(finished, cohort, change):
    config, run = finished
    before = (run / "config.yaml").read_text()
    own = {key: value for key, value in change.items() if hasattr(config, key)}
    training = replace(config.training, **{key: value for key, value in change.items() if key not in own})
    with pytest.raises(InputError, match="other settings"):
        train(replace(config, training=training, **own), cohort, run, device=CPU)
    assert (run / "config.yaml").read_text() == before


def test_how_often_things_are_shown_may_be_changed(stopped, cohort, finished):
    config, run = stopped
    often = replace(config, training=replace(config.training, log_every=1, checkpoint_every=3, validate_every=20))
    train(often, cohort, run, device=CPU)
    assert [line["step"] for line in metrics(run)] == [2, 4, 5, 6, 7, 8, 9, 10, 10]
    assert read_yaml(run / "config.yaml") == with_training(often, threads=1)
    files, expected = (contents(folder)["last"][1] for folder in (run, finished[1]))
    assert all(torch.equal(files[file][key], tensor) for file in FILES for key, tensor in expected[file].items())


def test_the_precision_of_a_run_may_be_changed_and_it_is_said(stopped, cohort, caplog):
    config, run = stopped
    assert train(with_training(config, precision="auto"), cohort, run, device=CPU).training.precision == "float32"
    assert "float32" not in caplog.text
    longer = with_training(config, precision="bfloat16", steps=12)
    assert train(longer, cohort, run, device=CPU).training.precision == "bfloat16"
    assert "goes on in bfloat16, was in float32" in caplog.text


def test_settings_that_cannot_hold_are_named(copied, cohort, caplog):
    config, run = copied
    caplog.set_level("INFO")
    assert train(with_training(config, steps=4), cohort, run, device=CPU) == config
    assert "4 steps are asked for, the run has 10 of its 10" in caplog.text
    assert train(with_training(config, minutes=5.0), cohort, run, device=CPU) == config
    assert "finished after 10 steps" in caplog.text


def test_another_method_is_refused(finished, cohort, tiny):
    with pytest.raises(InputError, match="a run of 'regression', not 'syndiff'"):
        train(tiny("syndiff"), cohort, finished[1], device=CPU)


def test_another_cohort_is_refused(finished, phantoms, tmp_path):
    config, run = finished
    other = build_cohort(phantoms, tmp_path / "other", Preparation(size=(32, 32, None), intensity="percentile"))
    with pytest.raises(InputError, match="not the cohort"):
        train(config, other, run, device=CPU)


def test_foreign_folders_are_refused_and_runs_overwritten_only_on_demand(copied, cohort, tmp_path):
    config, run = copied
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="other files and no run"):
            train(config, cohort, tmp_path / "mine", device=CPU, overwrite=overwrite)
    (tmp_path / "mine" / "config.yaml").write_text("method: regression")
    with pytest.raises(InputError):
        train(config, cohort, tmp_path / "mine", device=CPU, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    other = replace(config, seed=1, training=replace(config.training, steps=2))
    train(other, cohort, run, device=CPU, overwrite=True)
    assert [line["step"] for line in metrics(run)] == [2, 2]


def test_a_run_that_another_training_writes_to_is_left_alone(copied, cohort, monkeypatch):
    config, run = copied
    before = contents(run)
    monkeypatch.setattr("scansynth.training.run_folder.PATIENCE", 0.1)
    with locked(run, Processes(CPU)):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another training"):
                train(config, cohort, run, device=CPU, overwrite=overwrite)
    assert_equal(contents(run), before)
    train(config, cohort, run, device=CPU)


def test_contrasts_and_sizes_must_fit(cohort, tiny, tmp_path):
    with pytest.raises(InputError, match="'FLAIR' is not in the cohort, which has T1w, T2w"):
        train(replace(tiny(), contrasts=("T1w", "FLAIR")), cohort, tmp_path / "run", device=CPU)
    deep = RegressionConfig(channels=4, multipliers=(1,) * 7)
    with pytest.raises(InputError, match="32×32, the networks need multiples of 64"):
        train(tiny(settings=deep), cohort, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_init_starts_from_the_other_runs_synthesis_weights(finished, cohort, tiny, tmp_path):
    config, run = finished
    # Without a learning rate nothing moves away from the start.
    still = tiny(settings=replace(config.settings, learning_rate=0.0), steps=2)
    train(still, cohort, tmp_path / "run", device=CPU, init=run)
    expected, source = load_weights(run)
    assert source.parent.name == "last"
    files, _ = checkpoint.load(checkpoint.current(tmp_path / "run" / "last"), *FILES)
    for file in ("weights", "averages"):
        assert files[file].keys() == expected.keys()
        assert all(torch.equal(files[file][key], tensor) for key, tensor in expected.items())
    assert checkpoint.load(checkpoint.current(run / "last"), "weights")[0]["weights"].keys() == expected.keys()


def test_the_best_weights_are_taken_where_five_subjects_say_so(copied, caplog):
    _, run = copied
    last, best = (checkpoint.current(run / kind) for kind in ("last", "best"))
    assert load_weights(run)[1] == last
    assert load_weights(run, "best")[1] == best
    checkpoint.note(run / "best", subjects=5)
    assert load_weights(run)[1] == best
    weights, source = load_weights(run, "last")
    assert source == last
    averages = checkpoint.load(last, "averages")[0]["averages"]
    assert all(torch.equal(weights[key], tensor) for key, tensor in averages.items())
    shutil.rmtree(run / "last")
    checkpoint.note(run / "best", subjects=1)
    assert load_weights(run)[1] == best  # all that is there
    with pytest.raises(InputError, match="the last weights are not there any more"):
        load_weights(run, "last")


def test_best_weights_are_refused_where_nothing_was_validated(copied):
    _, run = copied
    shutil.rmtree(run / "best")
    with pytest.raises(InputError, match="no weights were validated"):
        load_weights(run, "best")


def test_a_run_whose_best_was_found_by_another_rule_finds_it_anew(copied, cohort, caplog):
    """Older versions had 40 dB under a protocol that sees no brightness: nothing would ever be better."""
    config, run = copied
    checkpoint.note(run / "last", best=40.0, rule="another")
    caplog.set_level("INFO")
    train(with_training(config, steps=15), cohort, run, device=CPU)
    assert "chosen by another rule" in caplog.text
    _, state = checkpoint.load(checkpoint.current(run / "best"), "weights")
    assert state["rule"] == RULE
    assert state["validation_psnr"] < 40
    assert state["step"] == 15


def test_validation_sees_brightness(cohort, tiny, monkeypatch, tmp_path):
    """A synthesis of half the intensity is no perfect one."""
    seen = []

    def halved(method, left_out, seed, device):
        seen.append(left_out)
        return left_out.truth / 2

    monkeypatch.setattr(loop, "synthesise_target", halved)
    train(tiny(steps=5, validate_every=5), cohort, tmp_path / "run", device=CPU)
    assert seen
    figures = next(line for line in metrics(tmp_path / "run") if "validation/psnr" in line)
    assert 0 < figures["validation/psnr"] < 25
    assert figures["validation/T1w/ssim"] == pytest.approx(100)


def test_init_from_what_does_not_fit_is_refused(finished, cohort, tiny, tmp_path):
    _, run = finished
    with pytest.raises(InputError, match=r"--init .*regression.*syndiff"):
        train(tiny("syndiff"), cohort, tmp_path / "method", device=CPU, init=run)
    wider = RegressionConfig(channels=16, multipliers=(1, 2))
    with pytest.raises(InputError, match="do not fit"):
        train(tiny(settings=wider), cohort, tmp_path / "width", device=CPU, init=run)
    with pytest.raises(InputError, match="none: no checkpoint there"):
        train(tiny(), cohort, tmp_path / "nothing", device=CPU, init=tmp_path / "none")
    assert not any((tmp_path / name).exists() for name in ("method", "width", "nothing"))


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(cohort, tiny, tmp_path):
    wild = RegressionConfig(channels=8, multipliers=(1, 2), learning_rate=1e30)
    some = "|".join(cohort.subjects("train"))
    with pytest.raises(InputError, match=rf"step \d: the loss of player 'G' is not finite .*, on scans of ({some})"):
        train(tiny(settings=wild, checkpoint_every=1), cohort, tmp_path / "run", device=CPU)
    files, state = checkpoint.load(checkpoint.current(tmp_path / "run" / "last"), *FILES)
    assert state["step"] >= 1
    assert all(torch.isfinite(tensor).all() for tensor in files["weights"].values())


def test_weights_that_are_not_finite_though_the_losses_are_take_no_checkpoints_place(
    cohort, tiny, tmp_path, monkeypatch
):
    """As of a gradient that overflows: the loss of the step tells nothing, and that of the next comes too late."""
    plain = Engine.update

    def overflowing(self, player, losses):
        plain(self, player, losses)
        if self.progress.step == 4:
            next(next(iter(self.method.nets.values())).parameters()).data.flatten()[0] = torch.inf

    monkeypatch.setattr(Engine, "update", overflowing)
    with pytest.raises(InputError, match=r"step 5: the weights of network '\w+' are not finite"):
        train(tiny(checkpoint_every=1), cohort, tmp_path / "run", device=CPU)
    files, state = checkpoint.load(checkpoint.current(tmp_path / "run" / "last"), *FILES)
    assert state["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in files["weights"].values())


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "averages.safetensors", "optimizers.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(copied, cohort, file, damage):
    config, run = copied
    path = checkpoint.current(run / "last") / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"last/step-00000010: the checkpoint cannot be read"):
        train(config, cohort, run, device=CPU)


@pytest.mark.parametrize("pointer", ["", "step-00000099"])
def test_a_pointer_to_no_checkpoint_is_named(copied, cohort, pointer):
    config, run = copied
    shutil.rmtree(checkpoint.current(run / "last"))
    (run / "last" / "current").write_text(pointer)
    with pytest.raises(InputError, match=r"no checkpoint, and none is beside it|the checkpoint cannot be read"):
        train(config, cohort, run, device=CPU)
