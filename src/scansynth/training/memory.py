"""How much memory a training takes, before it takes it.

What a training step keeps for its backward pass grows with the number of samples, and most of the peak is that. It is
counted on one sample: a step is computed once, and every tensor that autograd keeps is weighed. Weights, gradients,
optimisers' moments and averages do not grow.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scansynth.config import RunConfig
from scansynth.errors import InputError
from scansynth.method import Method, Progress
from scansynth.network_precision import compute_in
from scansynth.noise import Noise
from scansynth.precision import choose_precision
from scansynth.training.costs import resident_gb
from scansynth.training.parts import make_method

log = logging.getLogger(__name__)

STATES = 4
"""Numbers kept a weight: itself, its gradient, and the two moments of Adam."""
AROUND = 2.0
"""Largest kept tensors that are there beside what is kept: gradients on the way back, and a kernel's workspace."""
ALLOCATOR = 1.15
"""What is taken from the system over what is used: blocks of other sizes than before (`benchmarks/memory.py`)."""
LIBRARIES = 0.1
"""GB that kernels take on a CPU when they first compute, likewise."""


@dataclass
class _Kept:
    """Bytes that autograd keeps now, at most, and of one tensor at most; a storage counts once."""

    now: int = 0
    peak: int = 0
    largest: int = 0


class _Weighed:
    """A tensor that autograd keeps; what it weighs is given back with it."""

    def __init__(self, tensor: Tensor, kept: _Kept, held: dict[int, int]):
        self.tensor, self.kept, self.held = tensor, kept, held
        storage = tensor.untyped_storage()
        self.place, self.bytes = storage.data_ptr(), storage.nbytes()
        if held.get(self.place, 0) == 0:
            kept.now += self.bytes
            kept.peak = max(kept.peak, kept.now)
            kept.largest = max(kept.largest, self.bytes)
        held[self.place] = held.get(self.place, 0) + 1

    def __del__(self) -> None:
        self.held[self.place] -= 1
        if self.held[self.place] == 0:
            self.kept.now -= self.bytes


def predicted_gb(config: RunConfig[Any], batch: Mapping[str, Tensor], device: torch.device) -> float:
    """Peak memory of a training, in GB: of the process on a CPU, of the allocator on a GPU.

    Args:
        config: settings, with contrasts.
        batch: one sample as the method trains on it (`Needs.random_batch`), B = 1.
        device: where it would be trained; the count is made on the CPU.
    """
    base = (
        0.0 if device.type == "cuda" else resident_gb() + LIBRARIES
    )  # before the count, whose memory the process keeps
    method = make_method(config)
    weights = {parameter.data_ptr() for parameter in method.parameters()}
    kept, held = _Kept(), dict[int, int]()

    def pack(tensor: Tensor) -> Any:
        own = tensor.untyped_storage().data_ptr() in weights or not tensor.numel()
        return tensor if own else _Weighed(tensor, kept, held)

    def unpack(packed: Any) -> Tensor:
        return packed.tensor if isinstance(packed, _Weighed) else packed

    precision = choose_precision(config.training.precision, device).precision
    cast = 0
    if device.type == "cpu" and precision == "bfloat16":
        compute_in(dict(method.nets.items()), precision, device)
        cast = 2 * _numbers(method.nets)  # the weights in bfloat16, which are kept but do not grow with the samples
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        _one_step(method, batch, config)
    # What a GPU would compute in bfloat16 is counted in float32, for a processor may be slow at it.
    share = 0.5 if precision == "bfloat16" and device.type != "cpu" else 1.0
    own = max(kept.peak - cast, 0) + AROUND * kept.largest
    training = config.training
    growing = ALLOCATOR * share * own * math.ceil(training.batch_size / training.accumulate)
    states = STATES + (training.accumulate > 1)  # gradients of the earlier parts
    numbers = states * _numbers(method.nets) + sum(_numbers(method.nets[name]) for name in method.averaged)
    return base + (growing + cast + 4 * numbers) / 1e9


def fitting(config: RunConfig[Any], batch: Mapping[str, Tensor], device: torch.device, limit: float) -> RunConfig[Any]:
    """The settings with the batch in the fewest parts by which a training keeps within a memory.

    Args:
        config: settings, with contrasts.
        batch: one sample as the method trains on it, B = 1.
        device: where it is trained.
        limit: GB.

    Raises:
        InputError: if it does not, by any.
    """
    training, method = config.training, make_method(config)
    numbers = [training.accumulate]
    if len(method.players) == 1:
        numbers += range(training.accumulate + 1, training.batch_size + 1)
    needed = math.inf
    for number in numbers:
        parted = replace(config, training=replace(training, accumulate=number))
        needed = predicted_gb(parted, batch, device)
        if needed <= limit:
            if number > training.accumulate:
                log.info("memory: about %.1f of %.1f GB, with the batch in %d parts", needed, limit, number)
            return parted
    way = "smaller slices, patches or networks"
    if len(method.players) > 1 and training.batch_size > 1:
        way = f"a smaller --training.batch-size than {training.batch_size}, or {way}"
    raise InputError(f"the training takes about {needed:.1f} GB, {limit:.1f} are allowed (--memory): give {way}")


def _one_step(method: Method, batch: Mapping[str, Tensor], config: RunConfig[Any]) -> None:
    """The losses of a step, in the middle of the training, and each player's gradients; no weight moves."""
    number = config.training.steps // 2

    def update(player: str, losses: Mapping[str, Tensor]) -> None:
        nets = [method.nets[name] for name in method.players[player]]
        parameters = [parameter for net in nets for parameter in net.parameters()]
        torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters, allow_unused=True)

    method.train()
    method.training_step(batch, update, Progress(number, config.training.steps, 0.0), Noise([(0, 0, 0)]))


def _numbers(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
