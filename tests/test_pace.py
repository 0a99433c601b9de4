"""Minutes that are held, threads that are fastest, and a share of the training that goes on when the end is moved."""

import time
from dataclasses import replace

import pytest
import torch

from scansynth.config import Training, read_yaml, to_yaml
from scansynth.errors import InputError
from scansynth.synthesis.run import Run
from scansynth.training import pace
from scansynth.training.pace import Budget, Crowding, choose_threads, progress_at, threads
from scansynth.training.train import train
from test_train import assert_equal, contents, interrupted, metrics, with_training

CPU = torch.device("cpu")


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(pace.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def held(clock, config, seconds_at, validation=0.0):
    """Seconds and steps of a run by minutes whose step `n` takes `seconds_at(n)`, and its settings at the end."""
    begun, budget, done = clock.now, Budget(config, 0, 0.0, validations=validation), 0
    while done < config.training.steps:
        clock.now += seconds_at(done)
        done += 1
        config = budget.revised(done) or config
        budget.config = config
    clock.now += validation
    return clock.now - begun, done, config


def test_minutes_are_held_though_the_machine_becomes_slower_or_faster(clock, tiny):
    config = tiny(minutes=5.0, steps=3000, validate_every=10**6)
    for factor in (3.0, 1.0, 0.4):  # the trial took it for 0.1 s; from step 500 on other work comes or goes
        seconds, steps, _ = held(clock, config, lambda n, f=factor: 0.1 if n < 500 else 0.1 * f)
        assert 300 * 0.95 < seconds < 300 * 1.05, factor
        assert steps == pytest.approx(500 + 250 / (0.1 * factor), rel=0.06)


def test_the_validation_at_the_end_is_part_of_the_minutes(clock, tiny):
    seconds, steps, _ = held(clock, tiny(minutes=5.0, steps=9000, validate_every=10**6), lambda n: 0.1, validation=60)
    assert 285 < seconds < 315
    assert steps == pytest.approx(2400, rel=0.05)


def test_a_trial_that_was_far_off_ends_near_the_time(clock, tiny):
    for trial in (1, 50_000):
        seconds, _, _ = held(clock, tiny(minutes=1.0, steps=trial, validate_every=10**6), lambda n: 0.05)
        assert seconds == pytest.approx(60, rel=0.02), trial


def test_the_share_that_is_done_goes_on_when_the_end_is_moved(clock, tiny):
    config = tiny(minutes=5.0, steps=3000, validate_every=10**6)
    _, steps, config = held(clock, config, lambda n: 0.1 if n < 500 else 0.2)
    assert len(config.training.revisions) > 2
    shares = [progress_at(config.training, n, 0.0).fraction for n in range(steps + 1)]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    strides = torch.tensor(shares).diff()
    assert strides.min() > 0
    assert strides.max() < 4 / steps
    assert progress_at(replace(config.training, revisions=()), 7, 0.0).fraction == 7 / steps


def test_a_run_by_minutes_is_one_by_its_settings_and_resumes_to_the_last_bit(cohort, tiny, tmp_path):
    asked = tiny(minutes=0.1, steps=7, checkpoint_every=2, validate_every=10**6)
    config = train(asked, cohort, tmp_path / "minutes", device=CPU)
    assert read_yaml(tmp_path / "minutes" / "config.yaml") == config
    assert metrics(tmp_path / "minutes")[-1]["step"] == config.training.steps
    assert train(asked, cohort, tmp_path / "minutes", device=CPU) == config
    again = with_training(config, minutes=0.0)
    train(again, cohort, tmp_path / "again", device=CPU)
    interrupted(again, cohort, tmp_path / "killed", config.training.steps - 1)
    train(again, cohort, tmp_path / "killed", device=CPU)
    whole = contents(tmp_path / "minutes")
    whole["last"][2].pop("seconds")
    assert_equal(whole, contents(tmp_path / "again"))
    assert_equal(whole, contents(tmp_path / "killed"))


def test_a_stopped_run_by_minutes_has_what_is_left_of_them(cohort, tiny, tmp_path):
    asked = tiny(minutes=0.1, steps=7, checkpoint_every=1, validate_every=10**6)
    interrupted(asked, cohort, tmp_path / "run", 2)
    begun = time.perf_counter()
    train(asked, cohort, tmp_path / "run", device=CPU)
    assert time.perf_counter() - begun < 30  # of six seconds; a resumed run has no six more
    spent = contents(tmp_path / "run")["last"][2]["seconds"]
    assert 0 < spent < 30


def test_revisions_are_read_back_and_checked(tiny, tmp_path):
    config = with_training(tiny(), minutes=1.0, steps=12, revisions=((0, 20), (5, 12)))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_yaml(tmp_path / "config.yaml") == config
    for wrong in (((0, 20), (5, 13)), ((1, 12),), ((0, 20), (5, 9), (5, 12))):
        with pytest.raises(InputError, match="revisions"):
            Training(steps=12, revisions=wrong)


def test_the_fastest_number_of_threads_is_taken(clock, monkeypatch, caplog):
    caplog.set_level("INFO")
    now = [1]
    monkeypatch.setattr(torch, "set_num_threads", lambda number: now.__setitem__(0, number))
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])

    def steps_of(seconds):
        return lambda: setattr(clock, "now", clock.now + seconds[now[0]])

    free, busy = (lambda number: False), (lambda number: True)
    assert choose_threads(steps_of({8: 0.08, 4: 0.04, 2: 0.05, 1: 0.1}), 8, free) == 4
    assert "threads: 4 (a step takes 0.100 s with 1, 0.050 s with 2, 0.040 s with 4, 0.080 s with 8)" in caplog.text
    assert choose_threads(steps_of({2: 0.0095, 1: 0.01}), 2, free) == 1  # no gain worth suffering from others
    assert choose_threads(steps_of({2: 0.1, 1: 0.05}), 2, free) == 1
    assert choose_threads(steps_of({2: 9.0, 1: 0.3}), 2, busy) == 1  # the nine seconds are not waited for
    assert choose_threads(steps_of({2: 9.0, 1: 1.0}), 2, busy) == 1
    assert choose_threads(steps_of({2: 0.7, 1: 1.0}), 2, free) == 2  # a large network is not tried for long
    assert choose_threads(steps_of({2: 9.0, 1: 6.0}), 2, busy) == 2  # nor a huge one slowed for others' sake
    assert choose_threads(steps_of({}), 1) == 1
    assert now == [1]


def test_whether_others_are_busy_is_measured(monkeypatch, clock):
    """Twenty additions that take a time slice each, or none."""
    for seconds, busy in ((0.0001, False), (0.006, True)):
        monkeypatch.setattr(pace.time, "perf_counter", Ticking(clock))
        monkeypatch.setattr(torch, "add", lambda *_, s=seconds, **__: setattr(clock, "now", clock.now + s))
        assert pace.others_are_busy(2) is busy
        assert pace.others_are_busy(1) is False


class Ticking:
    """A clock that goes on by half a millisecond whenever it is looked at."""

    def __init__(self, clock):
        self.clock = clock

    def __call__(self):
        self.clock.now += 0.0005
        return self.clock.now


def test_a_run_keeps_its_number_of_threads(cohort, tiny, tmp_path):
    before = torch.get_num_threads()
    seen = []
    config = tiny(threads=2, steps=2)
    found = train(
        config, cohort, tmp_path / "run", device=CPU, report=lambda event: seen.append(torch.get_num_threads())
    )
    assert found.training.threads == 2
    assert seen == [2, 2]
    assert torch.get_num_threads() == before
    longer = with_training(config, threads=0, steps=3)
    assert train(longer, cohort, tmp_path / "run", device=CPU).training.threads == 2
    with threads(0):
        assert torch.get_num_threads() == before


def test_steps_that_become_many_times_as_slow_are_noted():
    crowding = Crowding()
    assert not any(
        crowding.found(seconds, seconds, 2) for seconds in [0.1] * 8 + [2.0] * 4 + [0.1] + [0.2] * 20 + [2.0] * 4
    )
    assert crowding.found(2.0, 2.0, 2)
    later = Crowding()  # a phase that computes more: both threads are at work
    assert not any(later.found(seconds, 1.9 * seconds, 2) for seconds in [0.1] * 5 + [2.0] * 20)


def test_a_training_goes_on_with_one_thread_when_another_program_comes(cohort, tiny, tmp_path, monkeypatch, caplog):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(Crowding, "found", lambda self, *_: len(seen) == 3)
    config = tiny(threads=2, steps=6)
    found = train(
        config, cohort, tmp_path / "run", device=CPU, report=lambda event: seen.append(torch.get_num_threads())
    )
    assert seen == [2, 2, 2, 1, 1, 1]
    assert found.training.threads == read_yaml(tmp_path / "run" / "config.yaml").training.threads == 1
    assert "going on with one thread" in caplog.text
    assert torch.get_num_threads() == before


def test_synthesis_takes_one_thread_where_others_are_busy(cohort, tiny, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    train(tiny(steps=1), cohort, tmp_path / "run", device=CPU)
    for busy, number in ((False, 2), (True, 1)):
        monkeypatch.setattr("scansynth.synthesis.run.others_are_busy", lambda _, busy=busy: busy)
        with threads(2):
            Run.load(tmp_path / "run", "cpu")
            assert torch.get_num_threads() == number
    assert "threads: 1, as other programs" in caplog.text
