"""Progress: lines in a log file now and then, with the time left; network calls inside a subject."""

import io

import pytest
import torch
from rich.console import Console

import scansynth
from scansynth.commands import console
from scansynth.commands.console import Log, bars, in_words
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.robustness import measure_robustness
from scansynth.progress import Event, Parts, named, one_of
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.sampling import Sampling
from scansynth.training.train import train


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def run(tiny, cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "syndiff"
    train(tiny("syndiff", steps=2), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


def test_a_log_file_gets_a_line_now_and_then_with_the_time_left(clock):
    lines = []
    log = Log(lines.append, clock)
    log.move("translating", Event(10, 1000, "sub-1 T2w"))  # what was there before counts in no rate
    assert lines == ["translating (1000)"]
    for done in range(11, 131):  # one call a second
        clock.now += 1
        log.move("translating", Event(done, 1000, "sub-1 T2w"))
    assert lines[1:] == [
        "translating sub-1 T2w: 15/1000, 16 min left",
        "translating sub-1 T2w: 45/1000, 16 min left",
        "translating sub-1 T2w: 75/1000, 15 min left",
        "translating sub-1 T2w: 105/1000, 15 min left",
    ]


def test_calls_that_take_long_have_a_line_each_and_the_last_has_none(clock):
    lines = []
    log = Log(lines.append, clock)
    for done in range(1, 5):
        log.move("generating", Event(done, 4))
        clock.now += 90
    assert lines == ["generating (4)", "generating: 2/4, 3 min left", "generating: 3/4, 90 s left"]


def test_texts_have_clocks_of_their_own_and_no_progress_no_time(clock):
    lines = []
    log = Log(lines.append, clock)
    log.move("first", Event(0, 10))
    clock.now += 100
    log.move("second", Event(0, 10))
    clock.now += 6
    log.move("second", Event(0, 10))
    log.move("first", Event(5, 10))
    assert lines == ["first (10)", "second (10)", "second: 0/10", "first: 5/10, 106 s left"]


def test_times_in_words():
    assert [in_words(seconds) for seconds in (0.2, 119, 121, 3599, 7199, 7201, 90000)] == [
        "1 s", "119 s", "2 min", "60 min", "2 h 0 min", "2 h 0 min", "25 h 0 min",
    ]  # fmt: skip


def test_bars_are_lines_where_the_output_is_no_terminal(clock, capsys):
    with bars(clock=clock) as move:
        move("evaluating", Event(1, 9, "s1"))
        clock.now += 8
        move("evaluating", Event(2, 9, "s1"))
    assert capsys.readouterr().err.splitlines() == ["evaluating (9)", "evaluating s1: 2/9, 56 s left"]
    with bars(show=False, clock=clock) as move:
        move("evaluating", Event(1, 9, "s1"))
    assert capsys.readouterr().err == ""


def test_a_terminals_bar_knows_the_time_left_though_calls_are_slow(clock, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=True, width=120))
    with bars(clock=clock) as move:
        for done in (100, 101, 102):  # a hundred were there before
            move("translating", Event(done, 104, f"sub-{done}"))
            clock.now += 45
    last = [line for line in shown.getvalue().splitlines() if "translating" in line][-1]
    assert "sub-102" in last
    assert "102/104" in last
    assert "0:01:30" in last


def stops_in_the_middle(parts):
    with parts.part(10, "b") as report:
        report(Event(1, 2))
        raise InputError("half of it")


def test_parts_tell_of_the_calls_of_all(clock):
    told = []
    parts = Parts(told.append, 40)
    with parts.part(30, "a") as report:
        report(Event(1, 3))
        report(Event(3, 3))
    with parts.part(0, "kept") as report:
        pass
    with pytest.raises(InputError, match="half"):
        stops_in_the_middle(parts)
    assert told == [
        Event(10, 40, "a"), Event(30, 40, "a"), Event(30, 40, "a"), Event(30, 40, "kept"), Event(35, 40, "b"),
        Event(40, 40, "b"),
    ]  # fmt: skip
    with Parts(None, 1).part(1, "quiet") as report:
        assert report is None


def test_equal_parts_are_told_as_one_and_a_stage_hides_what_is_in_it():
    told = []
    for part in range(2):
        one_of(told.append, part, 2)(Event(1, 3, "image", {"loss": 1.0}))
    assert told == [Event(1, 6, "image", {"loss": 1.0}), Event(4, 6, "image", {"loss": 1.0})]
    assert one_of(None, 0, 2) is None
    named(told.append, "training")(told[0])
    assert told[-1] == Event(1, 6, "training")


def increasing(told, images):
    """Whether progress moved inside images, never backwards, and to its end."""
    done = [event.done for event in told]
    assert done == sorted(done)
    assert len({event.total for event in told}) == 1
    assert done[-1] == told[-1].total
    assert len(set(done)) > 2 * images
    return True


def test_evaluation_tells_of_the_calls_inside_a_subject(run, cohort, tmp_path):
    told = []
    settings = {"samples": 2, "pictures": 0, "report": told.append}
    evaluate([run], cohort, kept=tmp_path / "kept", target="T2w", **settings)
    assert increasing(told, 2)
    assert {event.what for event in told} == {f"{run.folder.name} {cohort.subjects('test')[0]} T2w"}
    told.clear()
    evaluate([run], cohort, kept=tmp_path / "kept", **settings)
    (total,) = {event.total for event in told}
    calls = run.calls(cohort.shape(cohort.subjects("test")[0], "T1w"))
    assert total == 2 * calls  # what is kept is no work: T1w is left
    told.clear()
    measure_robustness([run], cohort, (0.1,), target="T2w", report=settings["report"])
    assert increasing(told, 2)


def test_a_cohorts_translation_tells_of_the_calls_inside_a_subject(run, phantoms, tmp_path):
    told = []
    translate_cohort(
        run,
        phantoms,
        tmp_path,
        target="T2w",
        sampling=Sampling(samples=2),
        report=told.append,
    )
    assert increasing(told, 6)
    assert told[0].what == f"{phantoms.subjects[0].name} T2w"
