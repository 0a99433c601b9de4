"""What a run is, as hashes of everything that must not depend on interruptions."""

import contextlib
import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from scansynth.training import checkpoint


def digest(run: Path) -> dict[str, str]:
    """The hash of every part of a run that must not depend on interruptions."""
    parts = {name: hash_of((run / name).read_bytes()) for name in ("config.yaml", "preparation.json")}
    parts["metrics.jsonl"] = hash_of(*(json.dumps(line).encode() for line in figures(run)))
    pictures = sorted((run / "validation").glob("[!.]*.png"))
    parts["validation"] = hash_of(*(part for path in pictures for part in (path.name.encode(), path.read_bytes())))
    for kind in ("last", "best"):
        folder = checkpoint.current(run / kind)
        assert folder, f"{kind}/ has no checkpoint"
        parts[f"{kind}/current"] = folder.name
        parts[f"{kind}/state.json"] = hash_of((folder / "state.json").read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            parts[f"{kind}/{path.stem}"] = hash_of_tensors(load_file(path))
    return parts


def figures(run: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl in their order, without what measures the clock."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def last_line(run: Path) -> int | None:
    """Step of the last whole line of metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    while lines:
        with contextlib.suppress(json.JSONDecodeError):  # cut short
            return json.loads(lines.pop())["step"]
    return None


def differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """Parts that are not equal."""
    return sorted(part for part in a.keys() | b.keys() if a.get(part) != b.get(part))


def left_over(run: Path) -> list[str]:
    """What only a kill leaves: unfinished files, and checkpoints that nothing points to."""
    found = [path for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    for kind in ("last", "best"):
        found += [path for path in (run / kind).glob("step-????????") if path != checkpoint.current(run / kind)]
    # Names of unfinished files hold the number of the process, which says nothing to a reader.
    return sorted(
        re.sub(r"(?<=/\.)\d+(?=-)|(?<=\.)\d+$", "PID", "/" + str(path.relative_to(run)))[1:] for path in found
    )


def hash_of(*parts: bytes) -> str:
    """SHA-256 of parts, so that no two lists of parts have the same; 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def hash_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Of names, types, shapes and bits."""
    parts = []
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), content]
    return hash_of(*parts)
