"""What networks compute in: bfloat16 where the device computes it faster, float32 elsewhere.

A processor without bfloat16 instructions computes it by emulation, 10 to 600 times as slowly as float32, and one that
has them may still be slower in it (a virtual one that hands down AVX512-BF16 without AMX: 1.2 to 1.7 times as long). So
`auto` asks what the device can do, times a convolution where it can, and says why it chose.
"""

import logging
import os
import platform
import statistics
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
"""What networks compute in. Equations, losses and weights are float32 always."""
AskedPrecision = Literal["auto", "float32", "bfloat16"]
"""`auto`: whichever the device computes faster (`choose_precision`)."""

WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from its bfloat16 instructions; names it does not know do nothing."""
WORTH = 1.1
"""bfloat16 must be so many times as fast in a trial: it is coarser."""
TURNS = 11
"""Of a trial, a convolution in each precision: one after the other, so that other programs fall on both."""


@dataclass(frozen=True)
class Choice:
    """A precision, and why."""

    precision: Precision
    reason: str

    def __str__(self) -> str:
        return f"{self.precision} ({self.reason})"


def choose_precision(asked: AskedPrecision, device: "torch.device") -> Choice:
    """What networks compute in on a device.

    Args:
        asked: as the settings say it.
        device: where they compute.

    Returns:
        The precision asked for, or what `auto` takes. Asked for bfloat16 on a device that has none, a warning says how
        many times as long a step takes, measured.
    """
    if asked == "auto":
        return automatic(device)
    if asked == "bfloat16" and automatic(device).precision != "bfloat16":
        log.warning(
            "bfloat16 on a device that is slower in it (%s): a convolution takes %.1f times as long as in float32; "
            "give --training.precision auto or float32", automatic(device).reason, slowdown(device),
        )  # fmt: skip
    return Choice(asked, "as the settings say")


def synthesis_precision(trained: AskedPrecision, device: "torch.device") -> Precision:
    """What a trained run's networks compute in on the machine that synthesises: never coarser than in training."""
    return "float32" if trained == "float32" else automatic(device).precision


@lru_cache
def automatic(device: "torch.device") -> Choice:
    """What `auto` takes on a device; asked once a process."""
    import torch

    if device.type == "cpu":
        choice = of_processor()
        return choice if choice.precision == "float32" else timed(choice.reason, device)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice("bfloat16", "the GPU computes it") if native else Choice("float32", "the GPU only emulates it")
    return timed("", device)


def timed(has: str, device: "torch.device") -> Choice:
    """What a trial says.

    Args:
        has: what the device has, for the reason.
        device: where networks compute.
    """
    factor, has = slowdown(device), has and f"{has}, and "
    if factor < 1 / WORTH:
        return Choice("bfloat16", f"{has}a convolution is {1 / factor:.1f} times as fast as in float32 here, measured")
    return Choice("float32", f"{has}a convolution in it takes {factor:.1f} times as long as in float32 here, measured")


def of_processor() -> Choice:
    """What this machine's processor has, as far as PyTorch and oneDNN may use it."""
    import torch

    if platform.machine() in ("aarch64", "arm64"):
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return Choice("bfloat16", "the processor has bfloat16 instructions")
        return Choice("float32", "the processor has no bfloat16 instructions")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability != "AVX512":
        return Choice("float32", f"the processor is used as {capability}, without bfloat16 instructions")
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return Choice("float32", "the processor has AVX-512, but no bfloat16 instructions")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if limit in WITHOUT_BFLOAT16:
        return Choice("float32", f"ONEDNN_MAX_CPU_ISA={limit} leaves oneDNN no bfloat16 instructions")
    return Choice("bfloat16", "the processor has bfloat16 instructions")


def slowdown(device: "torch.device") -> float:
    """How many times as long a convolution with its gradients takes in bfloat16 as in float32: the median of turns.

    On a CPU with one thread: several wait for each other where other programs hold the processors.
    """
    import torch

    def seconds(kind: torch.dtype) -> float:
        image = torch.ones((1, 64, 32, 32), device=device, dtype=kind, requires_grad=True)
        weights = torch.ones((64, 64, 3, 3), device=device, dtype=kind, requires_grad=True)
        begun = time.perf_counter()
        torch.nn.functional.conv2d(image, weights, padding=1).sum().backward()
        if device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - begun

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():  # whoever asks may be about to synthesise
            ratios = [seconds(torch.bfloat16) / seconds(torch.float32) for _ in range(TURNS + 1)]
    finally:
        torch.set_num_threads(before)
    return statistics.median(ratios[1:])  # the first one warms up
