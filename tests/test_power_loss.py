"""What a power loss, a full disk or a damaged file leaves of a training: it goes on, or says in a line what to do."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scansynth import files
from scansynth.errors import InputError
from scansynth.synthesis.run import Run
from scansynth.training import checkpoint
from scansynth.training.checkpoint import load_weights
from scansynth.training.train import train

CPU = torch.device("cpu")
TENSORS = {"weights": {"net/a": torch.arange(400.0)}, "averages": {"net/a": torch.ones(3)}}


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoint of step 10, which the pointer names, and that of step 5, not removed yet."""
    folder = tmp_path / "last"
    checkpoint.save(folder, 5, TENSORS, {"best": 1.0})
    shutil.copytree(folder / "step-00000005", tmp_path / "kept")
    checkpoint.save(folder, 10, TENSORS, {"best": 2.0})
    shutil.move(tmp_path / "kept", folder / "step-00000005")
    return folder


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize("file", ["weights.safetensors", "averages.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0, 4, 60, -1, None])
def test_a_checkpoint_that_was_cut_gives_way_to_the_one_before(two, caplog, file, keep):
    path = two / "step-00000010" / file
    cut(path, keep) if keep is not None else path.write_bytes(bytes(path.stat().st_size))
    assert checkpoint.current(two).name == "step-00000005"
    assert "step 5 is taken, the newest that is whole" in caplog.text


@pytest.mark.parametrize("pointer", [b"", b"\0" * 13, b"step-00000099", None])
def test_a_pointer_that_was_lost_gives_way_to_the_newest_whole(two, caplog, pointer):
    (two / "current").unlink() if pointer is None else (two / "current").write_bytes(pointer)
    assert checkpoint.current(two).name == "step-00000010"
    assert "step 10 is taken" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["../last/step-00000010", "/etc", ".", "..", "best", "step-00000010/x", "step-00000010\nx", "step-10", "ü" * 300],
)
def test_a_pointer_out_of_the_folder_is_refused(two, name):
    (two / "current").write_text(name)
    with pytest.raises(InputError, match="which is no checkpoint beside it") as caught:
        checkpoint.current(two)
    assert "\n" not in str(caught.value)


def test_what_a_pointer_names_is_on_the_disk_before_it_and_the_last_one_goes_after(tmp_path, monkeypatch):
    """Order of the system's calls: each new file and its folder are synced, then the name, the pointer, the removal."""
    done, fsync, replace, rmtree = [], os.fsync, os.replace, shutil.rmtree

    def named(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append(("sync", os.path.relpath(path, tmp_path)))
        fsync(descriptor)

    folder = tmp_path / "last"
    checkpoint.save(folder, 5, TENSORS, {})
    monkeypatch.setattr(os, "fsync", named)
    monkeypatch.setattr(
        os, "replace", lambda a, b: (done.append(("name", os.path.relpath(b, tmp_path))), replace(a, b))
    )
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (done.append(("remove", path.name)), rmtree(path)))
    checkpoint.save(folder, 10, TENSORS, {})
    new, pointer = ("name", "last/step-00000010"), ("name", "last/current")
    for file in ("weights.safetensors", "averages.safetensors", "state.json"):
        assert ("sync", f"last/step-00000010.tmp/{file}") in done[: done.index(new)]
    assert ("sync", "last/step-00000010.tmp") in done[: done.index(new)]
    assert ("sync", "last") in done[done.index(new) : done.index(pointer)]
    assert done[-2:] == [("sync", "last"), ("remove", "step-00000005")]


def test_a_damaged_middle_of_weights_is_named(tmp_path):
    newest = checkpoint.save(tmp_path / "last", 5, TENSORS, {})
    content = bytearray((newest / "weights.safetensors").read_bytes())
    content[-8] ^= 1
    (newest / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read \(weights\.safetensors is not what was saved\)"):
        checkpoint.load(newest, "weights")


def test_checkpoints_of_before_have_no_sums_and_load(tmp_path):
    newest = checkpoint.save(tmp_path / "last", 5, TENSORS, {})
    state = json.loads((newest / "state.json").read_text())
    del state["files"]
    (newest / "state.json").write_text(json.dumps(state))
    assert checkpoint.current(tmp_path / "last") == newest
    assert torch.equal(checkpoint.load(newest, "weights")[0]["weights"]["net/a"], TENSORS["weights"]["net/a"])


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.float64, torch.int32, torch.bfloat16])
def test_weights_of_another_type_are_refused(tmp_path, dtype):
    net = nn.Linear(3, 2)
    tensors = checkpoint.flatten({"net": net})
    checkpoint.restore({"net": net}, tensors, tmp_path)
    tensors["net/weight"] = tensors["net/weight"].to(dtype)
    with pytest.raises(InputError, match=r"do not fit the network 'net' \(first difference: weight\)"):
        checkpoint.restore({"net": net}, tensors, tmp_path)


class FullDiskError(OSError):
    """So that the tests' own faults are told from it."""


def full_after(monkeypatch, count):
    """Let the disk be full at the n-th file that is opened for writing, synced or renamed, and after it."""
    left = [count]

    def once(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise FullDiskError(errno.ENOSPC, "No space left on device", str(arguments[0]))
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", once(os.fsync))
    monkeypatch.setattr(os, "replace", once(os.replace))
    monkeypatch.setattr(checkpoint, "save_file", once(save_file))
    return left


def test_a_disk_that_is_full_at_any_write_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    folder, failures = tmp_path / "last", 0
    checkpoint.save(folder, 5, TENSORS, {})
    for count in range(40):
        with monkeypatch.context() as patch:
            full_after(patch, count)
            try:
                checkpoint.save(folder, 10, TENSORS, {})
            except FullDiskError:
                failures += 1
            else:
                break
        newest = checkpoint.current(folder)
        assert newest is not None
        assert checkpoint.load(newest, *TENSORS)[1]["step"] in (5, 10)
        assert not [path.name for path in folder.rglob("*") if path.suffix == ".tmp" or path.name.startswith(".")]
    assert failures > 5
    assert [path.name for path in folder.glob("step-*")] == ["step-00000010"]


def test_safetensors_full_disk_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        checkpoint._save(tmp_path / "none" / "weights.safetensors", TENSORS["weights"])
    assert caught.value.errno == errno.ENOENT


def test_a_text_at_a_full_disk(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")
    full_after(monkeypatch, 0)
    with pytest.raises(FullDiskError):
        files.write_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.fixture(scope="module")
def finished(cohort, tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    config = tiny(checkpoint_every=5, validate_every=5)
    return train(config, cohort, run, device=CPU), run


def damaged(state):
    """A record with each part in turn gone, of another type, or out of its range, by name."""
    for name, value in state.items():
        yield f"no {name}", {key: part for key, part in state.items() if key != name}
        for other in (None, "text", -1, 10**400, [], {}, [[[]]], float("nan"), {"G": None}, {"G": [1]}, True):
            if other != value:
                yield f"{name} {str(other)[:12]}", {**state, name: other}


def refusal(use):
    """What is said of a record; None where it is taken."""
    try:
        use()
    except InputError as error:
        return str(error)
    return None


def test_a_damaged_state_is_one_line_or_harmless(finished, cohort, tmp_path):
    config, run = finished
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "last" / "step-00000010" / "state.json"
    state, refused = json.loads(path.read_text()), 0
    texts = [json.dumps(one) for _, one in damaged(state)]
    texts += [
        "",
        "{",
        "[" * 100000,
        '{"step": ' + "9" * 5000 + "}",
        "null",
        "[]",
        '"x"',
        "\xff",
        '{"step": 1, "step": 10}',
    ]
    for text in texts:
        path.write_text(text, encoding="latin-1")
        for use in (
            lambda: train(config, cohort, tmp_path / "run", device=CPU),
            lambda: load_weights(tmp_path / "run"),
        ):
            if error := refusal(use):
                refused += 1
                assert "\n" not in error
                assert "step-00000010" in error
                assert len(error) < 700
    assert refused > 0.6 * 2 * len(texts)


@pytest.mark.parametrize("part", ["weights", "averages", "optimizers"])
def test_a_run_with_tensors_of_another_type_is_refused(finished, cohort, tmp_path, part):
    config, run = finished
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run" / "last" / "step-00000010"
    tensors = load_file(newest / f"{part}.safetensors")
    save_file({name: tensor.to(torch.bool) for name, tensor in tensors.items()}, newest / f"{part}.safetensors")
    state = json.loads((newest / "state.json").read_text())
    del state["files"]
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="do not fit"):
        train(config, cohort, tmp_path / "run", device=CPU)
    if part == "averages":  # of which synthesis makes the networks
        with pytest.raises(InputError, match="do not fit"):
            Run.load(tmp_path / "run", "cpu", weights="last")
