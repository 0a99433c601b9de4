"""A plan of a cohort: settings that train, what they will take, and what is refused."""

from dataclasses import replace

import pytest
import torch

from scansynth.cli import main
from scansynth.config import read_yaml
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.planning import plan as planning
from scansynth.planning.plan import facts_of_cohort, plan
from scansynth.training.trial import Trial

CPU = torch.device("cpu")


def test_facts_are_those_of_the_training_subjects(cohort, gridded):
    facts = facts_of_cohort(cohort, ("T2",), CPU, 0.5)
    assert facts.targets == ("T2w",)
    assert facts.size == (32, 32)
    assert facts.spacing == pytest.approx((6.0, 6.0, 6.0))
    assert facts.subjects == {split: len(cohort.subjects(split)) for split in ("train", "val", "test")}
    assert facts.paired == facts.having == dict.fromkeys(cohort.contrasts, len(cohort.subjects("train")))
    assert not facts.one_grid
    assert facts_of_cohort(gridded, (), CPU, 0.5).one_grid
    assert 0 < facts.slices <= 16 * facts.subjects["train"]
    assert facts.memory_gb > 0.1


def test_a_planned_run_trains(cohort, tmp_path, capfd, monkeypatch):
    settings = tmp_path / "plan.yaml"
    command = ["plan", str(cohort.folder), "--target", "T2w", "--hours", "0.002", "-o", str(settings), "--seed", "3"]
    assert main(command) == 0
    told = capfd.readouterr().out
    assert "method" in told
    assert "regression: " in told
    assert "s a step in a trial just now" in told
    assert f"Next: scansynth train {settings} --cohort {cohort.folder}" in told
    config = read_yaml(settings)
    assert config.settings.targets == ("T2w",)
    assert config.seed == 3
    assert config.training.minutes == pytest.approx(0.12)
    assert settings.read_text().startswith("# method")
    assert main(["train", str(settings), "--cohort", str(cohort.folder), "--run", str(tmp_path / "run")]) == 0
    assert main(command) == 1
    assert "is there already" in capfd.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def tried(monkeypatch, seconds):
    """Let a trial take so many seconds a channel."""
    found = []

    def try_steps(config, size, device):
        found.append(config)
        return Trial(seconds * getattr(config.settings, "channels", 1), 1.0, size)

    monkeypatch.setattr(planning, "try_steps", try_steps)
    return found


def test_width_steps_and_validation_follow_the_measured_rate(cohort, monkeypatch):
    for seconds, width in ((0.1, 16), (0.01, 32), (0.001, 48)):
        tried(monkeypatch, seconds)
        planned = plan(facts_of_cohort(cohort, (), CPU, 1.0), CPU)
        assert planned.config.settings.channels == width
        assert planned.steps == round(3600 / (seconds * width))
        assert planned.config.training.validate_every == pytest.approx(planned.steps / 10, abs=1)


def test_a_batch_that_does_not_fit_into_memory_is_halved(cohort, monkeypatch):
    tried(monkeypatch, 0.01)
    monkeypatch.setattr(planning, "predicted_gb", lambda config, *_: 1.0 * config.training.batch_size)
    planned = plan(replace(facts_of_cohort(cohort, (), CPU, 1.0), memory_gb=3.0), CPU)
    assert planned.config.training.batch_size == 2
    assert any("4.0 of 3.0 GB" in line for line in planned.lines())


def test_a_generator_without_time_is_refused_with_the_hours_it_needs(gridded, monkeypatch):
    tried(monkeypatch, 1.0)
    facts = replace(facts_of_cohort(gridded, (), CPU, 1.0), contrasts=("T1w",), paired={})
    with pytest.raises(InputError, match=r"to generate volumes needs 1500 .* give --hours 24"):
        plan(facts, CPU)
    tried(monkeypatch, 0.01)
    assert plan(facts, CPU).config.method == "cdpm"


def test_slices_of_several_sizes_and_unknown_targets_are_refused(phantoms, cohort, tmp_path):
    with pytest.raises(InputError, match="no scan of FLAIR"):
        facts_of_cohort(cohort, ("FLAIR",), CPU, 1.0)
    write_phantom_cohort(tmp_path / "a", 2, ("T1w", "T2w"), layout="table", shape=(32, 32, 16), spacing=6.0)
    write_phantom_cohort(tmp_path / "b", 2, ("T1w", "T2w"), layout="table", shape=(40, 32, 16), spacing=6.0, seed=1)
    listings = [find_subjects(tmp_path / name / "table.csv") for name in "ab"]
    other = [replace(subject, name=f"other-{subject.name}") for subject in listings[1].subjects]
    both = replace(listings[0], subjects=tuple(replace(s, split="train") for s in (*listings[0].subjects, *other)))
    mixed = build_cohort(both, tmp_path / "cohort", Preparation(size=(None, None, None)))
    with pytest.raises(InputError, match="slices of 2 sizes"):
        facts_of_cohort(mixed, (), CPU, 1.0)
