"""The one function that changes weights: `Engine.update`.

Several processes each compute on their own part of the batch; gradients are averaged over
them once an update. Networks are not wrapped in `DistributedDataParallel`: some run forward without backward, some
serve two players, and `torch.autograd.grad` goes past its hooks.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from scansynth.config import Decay
from scansynth.devices import Processes
from scansynth.errors import InputError, located
from scansynth.method import Method, Progress
from scansynth.network_precision import compute_in
from scansynth.networks.batch_norm import BatchNorm
from scansynth.precision import Precision
from scansynth.training import checkpoint

COOLDOWN = 0.2
"""Share of a training over which its learning rates fall, where they do so at its end."""


def laid_out_like(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient in its parameter's memory layout.

    `torch.autograd.grad`, unlike `backward`, may return another (the weights of a convolution that was differentiated
    twice, for R1), and fused optimisers silently pair numbers by their place in memory (PyTorch 2.13, CPU).
    """
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


class Engine:
    """Optimisers, moving averages and logged losses of one method.

    Args:
        method: the method to train; moved to `device`.
        device: where it computes.
        precision: what its networks compute in.
        gradient_clip: largest norm of a player's gradient; 0 for none.
        decay: of the learning rates; None: the method's own.
        processes: that train together, each on its part of the batch; by default there is only this one.
    """

    def __init__(
        self,
        method: Method,
        device: torch.device,
        precision: Precision,
        *,
        gradient_clip: float = 0.0,
        decay: Decay | None = None,
        processes: Processes | None = None,
    ):
        self.method = method.to(device)
        self.device = device
        self.processes = processes or Processes(device)
        self.method.joined = self.processes.joined
        self.gradient_clip, self.decay = gradient_clip, decay
        self.averages = nn.ModuleDict({name: copy.deepcopy(method.nets[name]) for name in method.averaged})
        self.averages.requires_grad_(False)
        for module in method.nets.modules():
            if isinstance(module, BatchNorm):
                module.parts = self.processes
        # ModuleDict is not a Mapping in its annotations; .items() is all that is used.
        compute_in(dict(method.nets.items()), precision, device)
        self.optimizers = method.optimizers()
        self._base_rates = {
            player: [group["lr"] for group in optimizer.param_groups] for player, optimizer in self.optimizers.items()
        }
        self.progress = Progress(0, 1, 0.0)
        self.whose: Callable[[], str] = lambda: ""
        """Says whose samples the batch has, where somebody knows."""
        self.share, self.last_part = 1.0, True
        """What the samples now at hand are of the step's, and whether no others follow (`training/accumulation.py`)."""
        self.moved = False
        """Whether weights have moved since the step began."""
        self._gathered: tuple[Tensor, list[Tensor | None]] | None = None
        self._updates = dict.fromkeys(self.optimizers, 0)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """Parameters that a player's update changes."""
        return [parameter for net in self.method.players[player] for parameter in self.method.nets[net].parameters()]

    def begin_step(self, progress: Progress) -> None:
        """A step begins, at this place of the training."""
        self.progress, self.moved, self._gathered = progress, False, None
        self.share, self.last_part = 1.0, True

    def update(self, player: str, losses: Mapping[str, Tensor]) -> None:
        """One optimisation step of `player` on the sum of `losses` (`method.Update`), over all processes.

        Where more parts of the step's samples follow, their gradients are kept for the last one.
        """
        parameters = self.parameters_of(player)
        values = torch.stack([loss.float() for loss in losses.values()])
        gradients = [
            None if gradient is None else laid_out_like(parameter, gradient)
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(values.sum(), parameters, allow_unused=True), strict=True
            )
        ]
        values, gradients = self._with_earlier_parts(values.detach(), gradients)
        if not self.last_part:
            self._gathered = values, gradients
            return
        values, gradients = self._over_processes(values, parameters, gradients)
        if not torch.isfinite(values.sum()):  # the mean, so that all processes come to the same end
            told = ", ".join(f"{name} {value:.3g}" for name, value in zip(losses, values.tolist(), strict=True))
            raise self.processes.error(
                f"step {self.progress.step}: the loss of player {player!r} is not finite ({told}){self.whose()}; the "
                "last checkpoint stays as it is. Look at those scans, or train another run with a lower learning rate "
                "or in float32 (--init starts from this one's weights)"
            )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.moved = True
        if self.gradient_clip:
            nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        optimizer = self.optimizers[player]
        factor = self.rate_factor(player)
        for group, rate in zip(optimizer.param_groups, self._base_rates[player], strict=True):
            group["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._move_averages(player)
        for name, value in zip(losses, values, strict=True):
            key = f"{player}/{name}"
            self._sums[key] = self._sums.get(key, torch.zeros((), device=self.device)) + value
            self._counts[key] = self._counts.get(key, 0) + 1

    def rate_factor(self, player: str) -> float:
        """What the player's learning rate is multiplied by."""
        if self.decay is None:
            return self.method.lr_factor(player, self.progress)
        done = self.progress.fraction
        if self.decay == "cooldown":
            return min(1.0, (1 - done) / COOLDOWN)
        return 1.0 if self.decay == "constant" else 0.5 * (1 + math.cos(math.pi * done))

    def _with_earlier_parts(self, values: Tensor, gradients: list[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Losses and gradients of these samples, by their share, added to those of the parts before."""
        if self.share == 1:
            return values, gradients
        values = self.share * values
        gradients = [gradient if gradient is None else self.share * gradient for gradient in gradients]
        if self._gathered is None:
            return values, gradients
        before, kept = self._gathered
        joined = [
            one if other is None else other if one is None else one + other
            for one, other in zip(kept, gradients, strict=True)
        ]
        return before + values, joined

    def _over_processes(
        self, values: Tensor, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Losses and gradients averaged over all processes; None where no process uses a parameter."""
        if self.processes.count == 1:
            return values, gradients
        used = torch.tensor([gradient is not None for gradient in gradients], dtype=torch.float32, device=self.device)
        filled = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        self.processes.mean_([values, used, *filled])
        return values, [gradient if share else None for gradient, share in zip(filled, used.tolist(), strict=True)]

    @torch.no_grad()
    def _move_averages(self, player: str) -> None:
        # A young average forgets its random start quickly: the decay grows to its final value over the first updates
        # of these networks, which may begin late.
        done = self._updates[player]
        self._updates[player] = done + 1
        decay = min(self.method.average_decay, (1 + done) / (10 + done))
        move = get_ema_multi_avg_fn(decay)
        for name in self.method.players[player]:
            if name in self.averages:
                live, average = self.method.nets[name], self.averages[name]
                move(list(average.parameters()), list(live.parameters()), None)
                for kept, buffer in zip(average.buffers(), live.buffers(), strict=True):
                    kept.copy_(buffer)

    def mean_losses(self) -> dict[str, float]:
        """Mean of every logged loss since the last call."""
        means = {key: (total / self._counts[key]).item() for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the method's averaged nets hold their averages: for validation."""
        live = {name: copy.deepcopy(self.method.nets[name].state_dict()) for name in self.averages}
        self.method.eval()
        try:
            for name, average in self.averages.items():
                self.method.nets[name].load_state_dict(average.state_dict())
            yield
        finally:
            for name, state in live.items():
                self.method.nets[name].load_state_dict(state)
            self.method.train()

    def save(self, folder: Path, step: int, state: Mapping[str, Any]) -> None:
        """Write everything that a resume needs.

        Raises:
            InputError: if a network has numbers that are not finite; nothing is written.
        """
        for name, net in self.method.nets.items():
            if not all(torch.isfinite(parameter).all() for parameter in net.parameters()):
                raise self.processes.error(
                    f"step {step}: the weights of network {name!r} are not finite, though the losses were; the last "
                    "checkpoint stays as it is. Train another run with a lower learning rate, with "
                    "--training.gradient-clip or in float32 (--init starts from this one's weights)"
                )
        tensors, groups = checkpoint.pack_optimizers(self.optimizers)
        files = {
            "weights": checkpoint.flatten(dict(self.method.nets.items())),
            "averages": checkpoint.flatten(dict(self.averages.items())),
            "optimizers": tensors,
        }
        if memory := self.method.memory():
            files["memory"] = {name: tensor.detach().contiguous().cpu() for name, tensor in memory.items()}
        # Losses that no line of metrics.jsonl has yet: a resumed run's next line is the uninterrupted one's.
        sums = {key: [total.item(), self._counts[key]] for key, total in self._sums.items()}
        checkpoint.save(folder, step, files, {"groups": groups, "sums": sums, "updates": self._updates, **state})

    def load(self, folder: Path) -> dict[str, Any]:
        """Put a saved training back; returns its state."""
        files, state = checkpoint.load(folder, "weights", "averages", "optimizers")
        checkpoint.restore(dict(self.method.nets.items()), files["weights"], folder)
        checkpoint.restore(dict(self.averages.items()), files["averages"], folder)
        checkpoint.unpack_optimizers(self.optimizers, files["optimizers"], state.get("groups", {}), folder)
        if "memory.safetensors" in state.get("files", {}):
            memory = checkpoint.load(folder, "memory")[0]["memory"]
            with located(folder):
                self.method.remember({name: tensor.to(self.device) for name, tensor in memory.items()})
        sums = state.get("sums", {})  # older runs have none, nor the next
        self._updates = state.get("updates", dict.fromkeys(self.optimizers, state["step"]))
        if self._updates.keys() != self.optimizers.keys():
            raise InputError(f"{folder}: its updates are not of these networks; {checkpoint.CURE}")
        self._sums = {key: torch.tensor(total, device=self.device) for key, (total, _) in sums.items()}
        self._counts = {key: count for key, (_, count) in sums.items()}
        return {**state}

    def start_equal(self) -> None:
        """Let all processes go on from the first one's weights, averages and optimisers.

        They are equal already where all read the same files; another kind of machine may draw other first weights.
        """
        states = [
            value
            for optimizer in self.optimizers.values()
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        nets = [*self.method.nets.state_dict().values(), *self.averages.state_dict().values()]
        self.processes.copy_first_([tensor for tensor in (*nets, *states) if tensor.is_floating_point()])

    def synthesis_weights(self) -> dict[str, Tensor]:
        """Weights that synthesis uses: averages where there are any, the nets themselves elsewhere."""
        return checkpoint.flatten({**dict(self.method.nets.items()), **dict(self.averages.items())})
