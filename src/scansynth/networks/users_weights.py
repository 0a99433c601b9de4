"""Weights of a published network that the user names: one safetensors file, and never a pickle."""

import hashlib
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from scansynth.errors import InputError, shown

HASH_DIGITS = 12


def read_weights(path: Path, of: str, convert: str) -> tuple[dict[str, Tensor], str]:
    """Read a weights file.

    Args:
        path: of the file.
        of: whose weights they are, for what is said.
        convert: the command that makes such a file from the published one.

    Returns:
        Tensors by key, and the first digits of the file's SHA-256.

    Raises:
        InputError: if there is no such file, it is no safetensors file, or it holds other numbers than weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a safetensors file of {of} weights")
    content = path.read_bytes()
    try:
        weights = load(content)
    except Exception as error:
        raise InputError(
            f"{path}: no safetensors file ({error}), and files of pickle (.pth, .pt) are never read here; where they "
            f"are trusted, convert them: {convert}"
        ) from error
    # Copied into a network, numbers of another type are converted in silence: truth values become 0 and 1.
    counts = [name for name in weights if name.endswith("num_batches_tracked")]
    if odd := [name for name, one in weights.items() if name not in counts and not one.is_floating_point()]:
        raise InputError(
            f"{path}: {shown(odd[0])} holds {weights[odd[0]].dtype}, no weights; convert {of} anew: {convert}"
        )
    return weights, hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
