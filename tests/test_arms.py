"""Which runs are trainings of one recipe."""

import shutil
from dataclasses import replace

import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.config import to_yaml
from scansynth.evaluation.arms import Arm, arms_of, cost_of
from scansynth.training.costs import Cost
from scansynth.training.train import train


@pytest.fixture(scope="module")
def base(tiny, cohort, tmp_path_factory):
    """A trained run, whose settings are then written anew."""
    folder = tmp_path_factory.mktemp("arms") / "plain"
    train(tiny("regression"), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


def named(base, name, **changes):
    training = {key: changes.pop(key) for key in list(changes) if hasattr(base.config.training, key)}
    settings = {key: changes.pop(key) for key in list(changes) if hasattr(base.config.settings, key)}
    config = replace(
        base.config,
        training=replace(base.config.training, **training),
        settings=replace(base.config.settings, **settings),
        **changes,
    )
    return replace(base, folder=base.folder.parent / name, config=config)


def test_runs_equal_but_for_the_seed_are_one_arm(base):
    runs = [
        named(base, "plain-0"),
        named(base, "wide", channels=16),
        named(base, "plain-1", seed=1, log_every=7, threads=1),
        named(base, "plain-seed2", seed=2),
    ]
    assert arms_of(runs) == (Arm("plain", ("plain-0", "plain-1", "plain-seed2")), Arm("wide", ("wide",)))


@pytest.mark.parametrize("change", [{"steps": 900}, {"batch_size": 3}, {"channels": 16}, {"contrasts": ("T2w", "T1w")}])
def test_other_settings_are_another_arm(base, change):
    runs = [named(base, "a-0"), named(base, "a-1", seed=1, **change)]
    assert [arm.runs for arm in arms_of(runs)] == [("a-0",), ("a-1",)]


def test_runs_by_minutes_may_have_come_to_other_steps(base):
    runs = [named(base, "a-0", minutes=5.0), named(base, "a-1", seed=1, minutes=5.0, steps=901)]
    assert arms_of(runs) == (Arm("a", ("a-0", "a-1")),)
    assert len(arms_of([runs[0], named(base, "a-1", seed=1, minutes=6.0)])) == 2


def test_one_training_is_not_counted_twice(base):
    """A copy of a run (other weights of one training) is no second training."""
    best, last = ([named(base, f"{which}-{seed}", seed=seed) for seed in range(2)] for which in ("best", "last"))
    assert arms_of([*best, *last]) == (Arm("best", ("best-0", "best-1")), Arm("last", ("last-0", "last-1")))
    assert [arm.runs for arm in arms_of([named(base, "one"), named(base, "copy")])] == [("one",), ("copy",)]


def test_an_arm_is_named_after_its_runs(base):
    def name(*runs):
        return arms_of(runs)[0].label

    assert name(named(base, "t2w_2", seed=2), named(base, "t2w_10", seed=10)) == "t2w"
    assert name(named(base, "night-a"), named(base, "night-b", seed=1)) == "night"
    assert name(named(base, "monday"), named(base, "friday", seed=1)) == "monday+friday"
    taken = [named(base, "a-0"), named(base, "a-1", seed=1), named(base, "a", channels=16)]
    assert [arm.label for arm in arms_of(taken)] == ["a-0+a-1", "a"]


def test_first_stages_of_other_settings_are_other_arms(base, tmp_path):
    runs = []
    for seed, channels in ((0, 8), (1, 8), (2, 16)):
        run = replace(named(base, "", seed=seed), folder=tmp_path / f"latent-{seed}")
        (run.folder / "first_stage").mkdir(parents=True)
        stage = named(base, "", seed=seed, channels=channels).config
        (run.folder / "first_stage" / "config.yaml").write_text(to_yaml(stage))
        runs.append(run)
    assert [arm.runs for arm in arms_of(runs)] == [("latent-0", "latent-1"), ("latent-2",)]


def test_what_an_arm_costs():
    costs = {"a": Cost(2.0, 1.0, 10), "b": Cost(4.0, 3.0, 10)}
    assert cost_of(Arm("ab", ("a", "b")), costs) == Cost(3.0, 3.0, 10)
    assert cost_of(Arm("c", ("c",)), costs) is None


def test_compare_puts_three_seeds_into_one_row(base, tiny, cohort, tmp_path, capsys):
    folders = [tmp_path / f"plain-{seed}" for seed in range(3)]
    shutil.copytree(base.folder, folders[0])
    for seed in (1, 2):
        train(replace(tiny("regression"), seed=seed), cohort, folders[seed], device=torch.device("cpu"))
    arguments = ["compare", "--run", *map(str, folders), "--cohort", str(cohort.folder), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu", "--pictures", "0"]) == 0
    shown = capsys.readouterr().out
    assert "plain: 3 trainings (plain-0, plain-1, plain-2), equal but for the seed." in shown
    assert "| plain | T1w→T2w | 3 |" in shown  # how far they are apart
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Over trainings" in page
    assert "plain-2" in (tmp_path / "out" / "table.md").read_text()  # each run has its row there
