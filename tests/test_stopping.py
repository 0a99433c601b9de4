"""Asked to stop, a training saves where it is, says so, and goes on from there as if nothing had been."""

import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from scansynth.errors import StoppedError
from scansynth.synthesis.run import Run
from scansynth.training import checkpoint
from scansynth.training.stopping import SIGNALS, asked_to_stop
from scansynth.training.train import train
from test_train import assert_equal, contents, metrics, with_training

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")


def stopped(config, cohort, run, step, number):
    """Train until a signal comes after a step; what is said."""

    def report(event):
        if event.done == step:
            os.kill(os.getpid(), number)

    with pytest.raises(StoppedError) as caught:
        train(config, cohort, run, device=CPU, report=report)
    assert caught.value.by == number
    return str(caught.value)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_costs_no_step(number, cohort, tiny, tmp_path):
    before = [signal.getsignal(one) for one in SIGNALS]
    config = tiny(steps=6, checkpoint_minutes=60.0, validate_every=100, log_every=4)
    said = stopped(config, cohort, tmp_path / "run", 3, number)
    assert f"stopped by {signal.Signals(number).name} at step 4 of 6" in said  # the one after the signal
    assert checkpoint.current(tmp_path / "run" / "last").name == "step-00000004"
    assert [signal.getsignal(one) for one in SIGNALS] == before
    train(config, cohort, tmp_path / "run", device=CPU)
    train(config, cohort, tmp_path / "whole", device=CPU)
    assert_equal(contents(tmp_path / "run"), contents(tmp_path / "whole"))


def test_a_line_of_metrics_holds_what_was_summed_before_the_stop(cohort, tiny, tmp_path):
    config = tiny(steps=6, checkpoint_minutes=60.0, log_every=6)
    stopped(config, cohort, tmp_path / "run", 2, signal.SIGTERM)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    train(config, cohort, tmp_path / "run", device=CPU)
    train(config, cohort, tmp_path / "whole", device=CPU)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("end", [4, 6])
def test_a_stop_during_a_validation_leaves_it_for_later(end, cohort, tiny, tmp_path, monkeypatch):
    config = tiny(steps=end, checkpoint_minutes=60.0, validate_every=4)
    train(config, cohort, tmp_path / "whole", device=CPU)
    real = train.__globals__["Loop"].go_on
    asked = []

    def go_on(loop):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        real(loop)

    monkeypatch.setattr("scansynth.training.loop.Loop.go_on", go_on)
    with pytest.raises(StoppedError, match=f"step 4 of {end}"):
        train(config, cohort, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run" / "best").exists()
    train(config, cohort, tmp_path / "run", device=CPU)
    assert_equal(contents(tmp_path / "run"), contents(tmp_path / "whole"))


def test_checkpoints_come_by_the_clock(cohort, tiny, tmp_path):
    seen = []

    def report(event):
        newest = checkpoint.current(tmp_path / "run" / "last")
        seen.append(checkpoint.step_of(newest) if newest else 0)

    train(tiny(steps=4, checkpoint_minutes=0.0), cohort, tmp_path / "run", device=CPU, report=report)
    assert seen[0] == 1  # the first is written as soon as the clock says so
    assert seen[-1] == 4


def test_stale_best_weights_are_not_taken_in_silence(cohort, tiny, tmp_path, caplog):
    config = tiny(steps=20, checkpoint_minutes=60.0, validate_every=2)
    stopped(config, cohort, tmp_path / "run", 2, signal.SIGTERM)
    Run.load(tmp_path / "run", "cpu")
    assert "never were" not in caplog.text  # the last are taken
    Run.load(tmp_path / "run", "cpu", weights="best")
    assert "the weights of step 2 are taken" in caplog.text
    assert "step 3, the last, never were" in caplog.text
    caplog.clear()
    train(with_training(config, steps=20, validate_every=1), cohort, tmp_path / "run", device=CPU)
    Run.load(tmp_path / "run", "cpu", weights="best")
    assert "never were" not in caplog.text


def test_a_second_signal_acts_at_once(request):
    # A shell starts what runs in its background with SIGINT ignored.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with asked_to_stop() as asked:
        assert not asked
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.by == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_command_says_where_it_stopped_and_ends_with_the_signals_code(cohort, tiny, tmp_path, monkeypatch, capfd):
    from scansynth.cli import main
    from scansynth.config import to_yaml

    (tmp_path / "settings.yaml").write_text(to_yaml(replace(tiny(steps=5000), contrasts=())))
    real = train.__globals__["Loop"].stopping

    def stopping(loop):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(loop)

    monkeypatch.setattr("scansynth.training.loop.Loop.stopping", stopping)
    command = ["train", str(tmp_path / "settings.yaml"), "--cohort", str(cohort.folder), "--run", str(tmp_path / "run")]
    assert main(command) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step 1 of 5000, saved; the same command goes on from there" in capfd.readouterr().err
