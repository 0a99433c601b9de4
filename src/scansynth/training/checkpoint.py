"""What is saved of a training, so that a killed run goes on as if nothing had happened.

A checkpoint is a numbered folder of safetensors and JSON, then a pointer file that is replaced atomically: whoever
kills the process leaves the previous checkpoint or the new one, never half of one. No pickle is written or read.

    last/current                     the name of the newest complete folder
    last/step-00001000/weights.safetensors      nets, key "<net>/<parameter>"
                       averages.safetensors     moving averages of nets, same keys
                       optimizers.safetensors   key "<player>/<parameter number>/<state name>"
                       state.json               step, parameter groups, best validation figure
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.training.selection import FEWEST, Which


def flatten(nets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of several nets, key `<net>/<name>`."""
    return {
        f"{net}/{name}": tensor.detach().contiguous().cpu()
        for net, module in nets.items()
        for name, tensor in module.state_dict().items()
    }


def restore(nets: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load `flatten`'s tensors back; every net must find exactly its own.

    Raises:
        InputError: if a name or shape differs: the weights are of another method or other settings.
    """
    for net, module in nets.items():
        prefix = f"{net}/"
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if expected != found:
            differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise InputError(
                f"{source}: its weights do not fit the network {net!r} (first difference: {differing[0]}); "
                "use a run of the same method, contrasts and network settings"
            )
        module.load_state_dict(own)


def current(folder: Path) -> Path | None:
    """The newest complete checkpoint under `last/` or `best/`, or None."""
    pointer = folder / "current"
    return folder / pointer.read_text().strip() if pointer.is_file() else None


def save(folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint `folder/step-…`, point to it, and remove the ones before it.

    Args:
        folder: `last/` or `best/` of a run.
        step: training steps finished.
        files: name → tensors of one safetensors file.
        state: JSON-able rest.
    """
    name = f"step-{step:08d}"
    temporary, final = folder / f"{name}.tmp", folder / name
    for leftover in (temporary, final):
        if leftover.exists() and current(folder) != leftover:
            shutil.rmtree(leftover)
    if not final.exists():
        temporary.mkdir(parents=True)
        for file, tensors in files.items():
            save_file(dict(tensors), temporary / f"{file}.safetensors")
        write_text(temporary / "state.json", json.dumps({"step": step, **state}, indent=1))
        os.replace(temporary, final)
    write_text(folder / "current", name)
    for other in folder.glob("step-*"):
        if other != final:
            shutil.rmtree(other)
    return final


def step_of(checkpoint: Path) -> int:
    """Training steps finished at a checkpoint.

    Raises:
        InputError: if it is no checkpoint's name.
    """
    number = checkpoint.name.removeprefix("step-")
    if not number.isdigit():
        raise InputError(f"{checkpoint}: the checkpoint cannot be read (not its name); restore it or train anew")
    return int(number)


def note(folder: Path, **values: Any) -> None:
    """Change the state of the newest checkpoint under `folder`, by a file that is replaced whole."""
    newest = current(folder)
    assert newest is not None
    path = newest / "state.json"
    write_text(path, json.dumps({**json.loads(path.read_text()), **values}, indent=1))


def load(checkpoint: Path, *names: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors of the files named, and the state, of one checkpoint folder.

    Raises:
        InputError: if the folder is damaged or lacks a file.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        files = {name: load_file(checkpoint / f"{name}.safetensors") for name in names}
    except Exception as error:
        raise InputError(f"{checkpoint}: the checkpoint cannot be read ({error}); restore it or train anew") from error
    return files, state


def pack_optimizers(optimizers: Mapping[str, Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors (for safetensors) and its parameter groups (for JSON)."""
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for player, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[player] = state["param_groups"]
        for number, values in state["state"].items():
            for name, value in values.items():
                tensors[f"{player}/{number}/{name}"] = torch.as_tensor(value).detach().contiguous().cpu()
    return tensors, groups


def unpack_optimizers(
    optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor], groups: Mapping[str, Any]
) -> None:
    """Put `pack_optimizers`' output back."""
    for player, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, number, name = key.split("/")
            if owner == player:
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": groups[player]})


def load_weights(run: Path, which: Which = "auto") -> tuple[dict[str, torch.Tensor], Path]:
    """Synthesis weights of a run, and their checkpoint (see `find_weights`)."""
    source = find_weights(run, which)
    if source.parent.name == "best":
        return load(source, "weights")[0]["weights"], source
    files, _ = load(source, "weights", "averages")
    return {**files["weights"], **files["averages"]}, source


def find_weights(run: Path, which: Which = "auto") -> Path:
    """The checkpoint whose weights synthesis takes.

    Args:
        run: the run folder.
        which: of the run's weights.

    Raises:
        InputError: if the run has no checkpoint yet, or not those that are asked for.
    """
    best, last = current(run / "best"), current(run / "last")
    if not (best or last):
        raise InputError(f"{run}: no checkpoint there; train it first (`scansynth train … --run {run}`)")
    if which == "best" and not best:
        raise InputError(f"{run}: no weights were validated, there are no best ones: leave --weights best out")
    if which == "last" and not last:
        raise InputError(f"{run}: the last weights are not there any more: leave --weights last out")
    if best and (which == "best" or not last or (which == "auto" and selected_by(best) >= FEWEST)):
        return best
    assert last is not None
    return last


def selected_by(best: Path) -> int:
    """How many validation subjects say that these weights are the best; 0 of older versions, whose rule was another."""
    return int(json.loads((best / "state.json").read_text()).get("subjects", 0))


def unvalidated(run: Path, weights: Path) -> int | None:
    """The step of a run's last weights, where they are newer than `weights` and no validation has seen them."""
    last = current(run / "last")
    if last is None or last == weights or step_of(last) <= step_of(weights):
        return None
    state = json.loads((last / "state.json").read_text())
    return step_of(last) if state.get("validated", step_of(last)) < step_of(last) else None
