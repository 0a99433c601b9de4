"""Memory that is bounded: batches in parts, windows by halves, predictions of a synthesis, and what to do without."""

import logging
from dataclasses import replace

import pytest
import torch

from scansynth.cli import main
from scansynth.diffusion.windows import PatchWindows, SliceWindows
from scansynth.errors import InputError, out_of_memory
from scansynth.method import Progress
from scansynth.methods import METHODS
from scansynth.ranges import gigabytes
from scansynth.synthesis import memory
from scansynth.synthesis.memory import Weighed, predicted, windows_within
from scansynth.synthesis.sampling import Sampling
from scansynth.training import accumulation, loop
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.memory import fitting, predicted_gb
from scansynth.training.parts import make_method, needs_of
from scansynth.training.train import train

CPU = torch.device("cpu")
FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried …")


def alone(name):
    """Whether a method has one player, and needs no other run to be built."""
    kind = METHODS[name].load()
    return kind.builds_on(kind.Config.tiny()) is None and len(kind(kind.Config.tiny(), ("T1w", "T2w")).players) == 1


def after_a_step(config, batch):
    torch.manual_seed(0)
    method = make_method(config)
    engine = Engine(method, CPU, "float32")
    step(engine, batch, config, 3, Progress(3, 10, 0.0))
    weights = torch.cat([parameter.detach().flatten() for parameter in method.parameters()])
    return weights, engine.mean_losses()


@pytest.mark.parametrize("name", [name for name in METHODS if alone(name)])
def test_a_batch_in_parts_is_the_same_training(name, tiny):
    config = tiny(name, batch_size=4)
    needs = needs_of(config)
    config = replace(config, contrasts=("T1w",) if needs.generates else config.contrasts)
    batch = needs.random_batch(len(config.contrasts), 4, (32, 32), 0)
    whole, losses = after_a_step(config, batch)
    for number in (2, 3):
        parted, told = after_a_step(replace(config, training=replace(config.training, accumulate=number)), batch)
        torch.testing.assert_close(parted, whole, rtol=0, atol=2e-5)
        assert told == pytest.approx(losses, rel=1e-4)


def test_players_that_take_turns_are_not_parted(tiny, cohort, tmp_path):
    with pytest.raises(InputError, match="2 players of pix2pix"):
        train(tiny("pix2pix", batch_size=4, accumulate=2), cohort, tmp_path / "run", device=CPU)
    with pytest.raises(InputError, match="a batch of 2 has no so many parts"):
        train(tiny(batch_size=2, accumulate=3), cohort, tmp_path / "run", device=CPU)


def bounded(monkeypatch, most):
    """Let a training step of more than so many samples at once find no memory."""
    own = loop.step
    tried = []

    def bound(engine, batch, config, number, progress):
        parts = accumulation.parts(batch, config.training.accumulate)
        tried.append(sizes := [len(part["available"]) for part, _ in parts])
        if max(sizes) > most:
            raise FULL
        own(engine, batch, config, number, progress)

    monkeypatch.setattr(loop, "step", bound)
    return tried


def test_a_training_that_finds_no_memory_goes_on_in_parts_and_keeps_them(tiny, cohort, tmp_path, monkeypatch, caplog):
    config = tiny(batch_size=4, steps=3)
    train(config, cohort, tmp_path / "whole", device=CPU)
    tried = bounded(monkeypatch, most=1)
    with caplog.at_level(logging.WARNING):
        found = train(config, cohort, tmp_path / "parted", device=CPU)
    assert tried == [[4], [2, 2], *[[1, 1, 1, 1]] * 3]
    assert found.training.accumulate == 4
    assert "in 4 parts" in caplog.text
    assert "accumulate: 4" in (tmp_path / "parted" / "config.yaml").read_text()
    train(replace(config, training=replace(config.training, steps=4)), cohort, tmp_path / "parted", device=CPU)
    assert tried[-1] == [1, 1, 1, 1]  # a run that goes on does not try again


def test_a_training_that_can_be_parted_no_further_says_what_would_help(tiny, cohort, tmp_path, monkeypatch):
    bounded(monkeypatch, most=0)
    for method, told in (("regression", "One sample at once is too much"), ("pix2pix", "smaller --training.batch")):
        with pytest.raises(InputError, match=told):
            train(tiny(method, batch_size=2), cohort, tmp_path / method, device=CPU)


@pytest.mark.parametrize(("error", "code"), [(FULL, 1), (MemoryError("Unable to allocate 9 GiB"), 1)])
def test_memory_that_is_out_anywhere_is_one_line(monkeypatch, capfd, error, code):
    def full(self):
        raise error

    monkeypatch.setattr("scansynth.commands.methods.Methods.run", full)
    assert main(["methods"]) == code
    told = capfd.readouterr().err
    assert "error: memory is out" in told
    assert "Traceback" not in told
    monkeypatch.setattr("scansynth.commands.methods.Methods.run", lambda self: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):
        main(["methods"])


def test_another_error_is_not_taken_for_memory():
    assert out_of_memory(FULL)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("could not create a primitive"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("windows", "count"), [(SliceWindows(8), 11), (PatchWindows((4, 4, 4), batch=5), 27)])
def test_windows_go_by_halves_where_memory_is_out(windows, count, caplog):
    volume = torch.randn(1, 2, 8, 8, 11 if isinstance(windows, SliceWindows) else 8)
    sizes, ticks = [], []

    def function(part):
        if len(part) > 2:
            raise FULL
        sizes.append(len(part))
        return part * 2

    windows = replace(windows, tick=lambda: ticks.append(1))
    torch.testing.assert_close(windows.map(function, volume), volume * 2)
    assert sum(sizes) == count
    assert max(sizes) <= 2
    assert len(ticks) == windows.ticks(volume.shape[2:])  # the bar runs as it would have
    assert caplog.text.count("going on with") == (2 if isinstance(windows, SliceWindows) else 1)
    caplog.clear()
    windows.map(function, volume)
    assert not caplog.text  # what fits is known by then

    def never(part):
        raise FULL

    with pytest.raises(RuntimeError, match="can't allocate"):
        windows.map(never, volume)


def test_memory_is_weighed_as_long_as_it_lives():
    with Weighed() as weighed:
        first = torch.ones(1000)
        second = first + 1
        del first
        third = second.view(10, 100) * 2
        del second, third
    assert weighed.now == 0
    assert weighed.peak == 8000  # two at once, of which a view is none


@pytest.mark.parametrize("name", ["regression", "ddpm", "cg_ddpm", "flow"])
def test_a_synthesis_is_predicted_from_one_window_and_two(name, tiny, monkeypatch):
    monkeypatch.setattr(memory, "resident_gb", lambda: 0.5)
    method = make_method(tiny(name)).eval()
    images = torch.rand(1, 2, 32, 32, 32) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    with torch.no_grad():
        small = predicted(method, batch, "T2w")
        large = predicted(method, {**batch, "images": images.repeat(1, 1, 2, 2, 1)}, "T2w")
    assert small.window > 4 * 32 * 32 * 4 / 1e9
    if not isinstance(method.needs.windows(), PatchWindows):  # which are of one size
        assert large.window == pytest.approx(4 * small.window, rel=0.2)
    limit = small.peak(3) + 0.5 * small.window
    sampling = Sampling(memory=f"{limit:.9f}G")
    with torch.no_grad():
        assert windows_within(sampling, method, batch, "T2w") == 3
        assert windows_within(replace(sampling, at_once=2), method, batch, "T2w") == 2
        with pytest.raises(InputError, match="allowed"):
            windows_within(replace(sampling, memory="100M"), method, batch, "T2w")


def test_a_training_is_parted_by_a_prediction(tiny):
    config = tiny(batch_size=8)
    one = needs_of(config).random_batch(2, 1, (32, 32), 0)
    needed = predicted_gb(config, one, CPU)
    assert fitting(config, one, CPU, needed + 0.2) == config
    many = replace(config, training=replace(config.training, batch_size=4000))
    limit = predicted_gb(many, one, CPU) / 2
    parted = fitting(many, one, CPU, limit).training.accumulate
    assert 1 < parted < 10
    assert predicted_gb(replace(many, training=replace(many.training, accumulate=parted)), one, CPU) <= limit
    with pytest.raises(InputError, match=r"0\.1\d? are allowed"):
        fitting(config, one, CPU, 0.1)


@pytest.mark.parametrize(("text", "value"), [("8G", 8.0), ("800M", 0.8), ("1.5 GB", 1.5), ("4", 4.0), ("8g", 8.0)])
def test_amounts_of_memory(text, value):
    assert gigabytes(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0", "G", "8T", "-1G", "8 apples"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(InputError, match="8G or 800M"):
        gigabytes(text)
