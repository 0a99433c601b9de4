"""What is saved of a training, so that a killed run goes on as if nothing had happened.

A checkpoint is a numbered folder of safetensors and JSON, then a pointer file that is replaced atomically: whoever
kills the process leaves the previous checkpoint or the new one, never half of one. What the pointer names is on the
disk before the pointer is, and the previous one goes after that: so it is with the machine's power, too. No pickle is
written or read.

    last/current                     the name of the newest complete folder
    last/step-00001000/weights.safetensors      nets, key "<net>/<parameter>"
                       averages.safetensors     moving averages of nets, same keys
                       optimizers.safetensors   key "<player>/<parameter number>/<state name>"
                       memory.safetensors       what the method remembers beside (`Method.memory`), if anything
                       state.json               step, parameter groups, best validation figure; size and SHA-256 of the
                                                files beside it
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from scansynth.errors import InputError, shown
from scansynth.files import sha256_of, write_text, written_folder
from scansynth.training.checkpoint_folder import CURE, State, current, read_state, step_of
from scansynth.training.selection import FEWEST, Which

log = logging.getLogger(__name__)


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
        InputError: if a name, shape or type differs: the weights are of another method or other settings.
    """
    for net, module in nets.items():
        prefix = f"{net}/"
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        # Copied into a network, numbers of another type are converted in silence: truth values become 0 and 1.
        expected = {name: (tensor.dtype, *tensor.shape) for name, tensor in module.state_dict().items()}
        found = {name: (tensor.dtype, *tensor.shape) for name, tensor in own.items()}
        if expected != found:
            differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise InputError(
                f"{source}: its weights do not fit the network {net!r} (first difference: {differing[0]}); "
                "use a run of the same method, contrasts and network settings"
            )
        module.load_state_dict(own)


def save(folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint `folder/step-…`, point to it, and remove the ones before it.

    Args:
        folder: `last/` or `best/` of a run.
        step: training steps finished.
        files: name → tensors of one safetensors file.
        state: JSON-able rest.

    Raises:
        OSError: if it cannot be written; the previous one is still there.
    """
    final = folder / f"step-{step:08d}"
    for leftover in (folder / f"{final.name}.tmp", final):
        if leftover.exists() and current(folder) != leftover:
            shutil.rmtree(leftover)
    if not final.exists():
        with written_folder(final) as temporary:
            sums = {f"{file}.safetensors": _save(temporary / f"{file}.safetensors", files[file]) for file in files}
            write_text(temporary / "state.json", json.dumps({"step": step, **state, "files": sums}, indent=1))
    write_text(folder / "current", final.name)
    for other in folder.glob("step-*"):
        if other != final:
            shutil.rmtree(other)
    return final


def _save(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write a file; its size and SHA-256."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # a full disk is no fault of the program
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    return path.stat().st_size, sha256_of(path)


def note(folder: Path, **values: Any) -> None:
    """Change the state of the newest checkpoint under `folder`, by a file that is replaced whole."""
    newest = current(folder)
    assert newest is not None
    write_text(newest / "state.json", json.dumps({**read_state(newest), **values}, indent=1))


def load(checkpoint: Path, *names: str) -> tuple[dict[str, dict[str, Tensor]], State]:
    """Tensors of the files named, and the state, of one checkpoint folder.

    Raises:
        InputError: if the folder is damaged or lacks a file.
    """
    try:
        state = read_state(checkpoint)
        for name in names:
            path, known = checkpoint / f"{name}.safetensors", state.get("files", {}).get(f"{name}.safetensors")
            if known and (path.stat().st_size, sha256_of(path)) != tuple(known):
                raise InputError(f"{path.name} is not what was saved")
        files = {name: load_file(checkpoint / f"{name}.safetensors") for name in names}
    except Exception as error:
        why = " ".join(str(error).split())
        raise InputError(f"{checkpoint}: the checkpoint cannot be read ({why}); {CURE}") from error
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
    optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor], groups: Mapping[str, Any], source: Path
) -> None:
    """Put `pack_optimizers`' output back.

    Raises:
        InputError: if it is not of these optimisers.
    """
    places: dict[str, dict[int, dict[str, Tensor]]] = {player: {} for player in optimizers}
    for key, value in tensors.items():
        player, number, name = key.split("/") if key.count("/") == 2 else ("", "", "")
        if player not in places or not number.isdecimal():
            raise _unfit(source, key)
        places[player].setdefault(int(number), {})[name] = value
    for player, optimizer in optimizers.items():
        own, stored = optimizer.state_dict()["param_groups"], groups.get(player)
        if stored is None or not _alike(own, stored):
            raise _unfit(source, player)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, values in places[player].items():
            for name, value in values.items():
                fits = number < len(parameters) and value.shape in ((), parameters[number].shape)
                if not (fits and value.is_floating_point()):
                    raise _unfit(source, f"{player}/{number}/{name}")
        optimizer.load_state_dict({"state": places[player], "param_groups": stored})


def _unfit(source: Path, what: str) -> InputError:
    return InputError(f"{source}: its optimisers do not fit (first difference: {shown(what)}); {CURE}")


def _alike(own: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]]) -> bool:
    """Whether parameter groups are of one form: the same parameters, and values of the same kinds."""

    def kind(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [kind(one) for one in value]
        if isinstance(value, bool | str | None):
            return type(value)
        return isinstance(value, int | float) and math.isfinite(value)

    return len(own) == len(stored) and all(
        mine["params"] == its.get("params")
        and all(kind(value) == kind(mine[name]) for name, value in its.items() if name in mine)
        and "lr" in its
        for mine, its in zip(own, stored, strict=True)
    )


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
    return read_state(best).get("subjects", 0)


def unvalidated(run: Path, weights: Path) -> int | None:
    """The step of a run's last weights, where they are newer than `weights` and no validation has seen them."""
    last = current(run / "last")
    if last is None or last == weights or step_of(last) <= step_of(weights):
        return None
    state = read_state(last)
    return step_of(last) if state.get("validated", step_of(last)) < step_of(last) else None
