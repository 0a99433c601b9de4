"""Devices, and the processes that share a command, which Lightning Fabric starts.

On one machine the command starts itself again, once for each further device. `torchrun` and SLURM's `srun` start all
processes themselves. What the processes do together stands in `Processes`; with one process all of it is nothing.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from scansynth.errors import InputError, StoppedError, ToldElsewhereError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Value = TypeVar("Value")

ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "gpu": "cuda", "mps": "mps"}
BUFFER = 2**25
"""Numbers that are sent at once, at most: 128 MiB."""
PATIENCE = timedelta(days=2)
"""How long a process waits for the others: one may validate, or translate its share, for hours."""
GRACE = 10.0
"""Seconds that the other processes stay when all fail, so that no launcher ends the first before it has said why."""
LAUNCHER = "SCANSYNTH_LAUNCHER"
"""Environment variable by which a process knows the one that started it."""


def find_device(name: str) -> torch.device:
    """The device of a `--device` flag: `auto`, `cpu`, `cuda`, `mps`; `cuda:1` is the second GPU.

    Raises:
        InputError: if this machine has no such device.
    """
    kind, _, number = name.partition(":")
    if kind not in ACCELERATORS or (number and not number.isdigit()):
        raise InputError(f"device {name!r}: use auto, cpu, cuda or mps")
    gpus, mac = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    wanted = ACCELERATORS[kind]
    if wanted == "auto":
        wanted = "cuda" if gpus else "mps" if mac else "cpu"
    there = {"cpu": "no CPU has a number", "cuda": f"GPUs that PyTorch finds: {gpus}", "mps": "no GPU of a Mac"}
    if int(number or 0) >= {"cpu": 1, "cuda": gpus, "mps": int(mac)}[wanted]:
        raise InputError(f"device {name!r} is not available here ({there[wanted]}); use --device cpu or auto")
    return torch.device("cpu") if wanted == "cpu" else torch.device(wanted, int(number or 0))


class _Mean(torch.autograd.Function):
    """The mean over all processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: "Processes") -> Tensor:
        ctx.processes, mean = processes, x.detach().clone()
        processes.mean_([mean])
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        mean = gradients[0].clone()
        ctx.processes.mean_([mean])
        return mean, None


@dataclass(frozen=True)
class Processes:
    """The processes that share a command, seen from one of them; by default there is only this one."""

    device: torch.device
    """Where this process computes."""
    rank: int = 0
    """Number of this process."""
    count: int = 1
    """How many there are."""
    group: Any = None
    """Their `torch.distributed` group; None for one process."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, places: int) -> range:
        """This process's contiguous part of the places of a batch."""
        assert places % self.count == 0, f"{places} places among {self.count} processes"
        own = places // self.count
        return range(self.rank * own, (self.rank + 1) * own)

    @torch.no_grad()
    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over all processes into each tensor, in float32; bit-equal in all processes afterwards."""
        for part, buffer in self._buffers(tensors):
            with self._together():
                dist.all_reduce(buffer, group=self.group)
            _fill(part, buffer / self.count)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a tensor over all processes, in the order of the processes' calls; gradients go to all of them.

        Of losses that are averaged over the processes (`mean_`), the gradient is the mean of the processes' own.
        """
        return x if self.count == 1 else _Mean.apply(x, self)

    @torch.no_grad()
    def joined(self, part: Tensor) -> tuple[Tensor, slice]:
        """Rows of a batch that all processes have, in the order of its places, and which of them are this one's.

        Args:
            part: this process's rows, (B, …); as many in each.
        """
        own = slice(self.rank * len(part), (self.rank + 1) * len(part))
        if self.count == 1:
            return part, own
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.count)]
        with self._together():
            dist.all_gather(parts, part.detach().contiguous(), group=self.group)
        return torch.cat(parts), own

    @torch.no_grad()
    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Put the first process's numbers into each tensor of all, in float32."""
        for part, buffer in self._buffers(tensors):
            with self._together():
                dist.broadcast(buffer, 0, group=self.group)
            _fill(part, buffer)

    def _buffers(self, tensors: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The tensors in portions, each with a flat copy; few large messages are faster than many small ones."""
        if self.count == 1:
            return
        parts: list[list[Tensor]] = [[]]
        size = 0
        for tensor in tensors:
            size += tensor.numel()
            if parts[-1] and size > BUFFER:
                parts.append([])
                size = tensor.numel()
            parts[-1].append(tensor)
        for part in parts:
            yield part, torch.cat([tensor.detach().to(self.device, torch.float32).flatten() for tensor in part])

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, in all of them; an `InputError` there is raised in all."""
        if self.count == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except InputError as error:
                answer[1] = str(error)
        with self._together():
            dist.broadcast_object_list(answer, 0, group=self.group)
        if answer[1] is not None:
            raise self.error(answer[1])
        return answer[0]

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in all of them; they wait for each other."""
        values: list[Any] = [value] * self.count
        if self.count > 1:
            with self._together():
                dist.all_gather_object(values, value, group=self.group)
        return values

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """An `InputError` that one process raises inside is raised in all, so that nobody waits for it.

        Inside, processes must not wait for each other.
        """
        message = None
        try:
            yield
        except InputError as error:
            if self.count == 1:
                raise
            message = str(error)
        told = [other for other in self.gather(message) if other is not None]
        if told:
            raise self.error(told[0])

    def error(self, message: str) -> InputError:
        """The `InputError` of a fault that all processes know of; only the first says it."""
        return InputError(message) if self.first else ToldElsewhereError(message)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Inside, all processes meet. A fault means that one is gone: the others end too."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise self.error(
                f"another process has ended; the same command goes on where it stopped ({reason})"
            ) from error


def _fill(tensors: Sequence[Tensor], buffer: Tensor) -> None:
    """Put a flat buffer back into the tensors that it was made of."""
    for tensor, values in zip(tensors, buffer.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


@contextmanager
def start_processes(device: str = "auto", devices: int = 1, nodes: int = 1) -> Iterator[Processes]:
    """Start the processes of a command. Each of them runs what stands in the `with` block.

    Without torchrun or srun the command line is run again for each further device (Fabric does so).

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`; processes talk by NCCL on CUDA, else by Gloo.
        devices: processes on each machine.
        nodes: machines.

    Raises:
        InputError: if they cannot be started so; whatever is raised inside ends all of them.
    """
    rank, outside = _started_from_outside()
    try:
        _check(devices, nodes, outside, rank)
        if devices * nodes == 1:
            yield Processes(find_device(device))
            return
        fabric = _launch(device, devices, nodes, outside, rank)
        processes = Processes(fabric.device, fabric.global_rank, fabric.world_size, dist.new_group(timeout=PATIENCE))
        rank = processes.rank
        yield processes
        processes.gather(None)  # nobody leaves before all are done
    except ToldElsewhereError:
        time.sleep(GRACE)
        raise
    except InputError as error:  # of this process alone: no other one can say it
        if rank == 0:
            raise
        raise InputError(f"process {rank}: {error}") from error
    except (KeyboardInterrupt, StoppedError) as error:  # all processes are asked, or hear of it
        if rank == 0:
            raise
        raise ToldElsewhereError("stopped") from error
    dist.destroy_process_group()
    for child in getattr(fabric.strategy.launcher, "procs", ()):
        child.wait()


def _started_from_outside() -> tuple[int, int]:
    """Number of this process, and of all that torchrun or srun have started; (0, 1) where neither has."""
    if dist.is_torchelastic_launched():
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # Only srun sets the size of a step. SLURM_NTASKS is set in the batch script, too, which is one process.
    if (count := int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))) > 1:
        return int(os.environ["SLURM_PROCID"]), count
    return 0, 1


def _check(devices: int, nodes: int, outside: int, rank: int) -> None:
    error = InputError if rank == 0 else ToldElsewhereError
    if min(devices, nodes) < 1:
        raise error(f"--devices {devices} --nodes {nodes}: give at least 1")
    if outside > 1 and devices * nodes != outside:
        raise error(
            f"torchrun or srun has started {outside} processes, but --devices {devices} times --nodes {nodes} is "
            f"{devices * nodes}: let --devices be the processes on each machine, and --nodes the machines"
        )
    if outside == 1 and nodes > 1:
        raise error(f"--nodes {nodes}: start the command by torchrun or srun, see docs/clusters.md")


def _launch(device: str, devices: int, nodes: int, outside: int, rank: int) -> "Fabric":
    # Importing it takes seconds, and a single process needs none of it.
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    error = InputError if rank == 0 else ToldElsewhereError
    if device not in ACCELERATORS:
        raise error(f"device {device!r}: use auto, cpu, cuda or mps with several --devices")
    if (launcher := int(os.environ.get(LAUNCHER, os.getpid()))) != os.getpid():
        _end_with(launcher)
    _quiet_fabric()
    try:
        # Named, because Fabric's own choice takes a batch script for a task of srun, and a job "bash" for none.
        environment: ClusterEnvironment = LightningEnvironment()
        if outside > 1:
            environment = TorchElasticEnvironment() if dist.is_torchelastic_launched() else SLURMEnvironment()
        fabric = Fabric(
            accelerator=ACCELERATORS[device], devices=devices, num_nodes=nodes, strategy="ddp", plugins=environment
        )
        if outside == 1:
            os.environ.setdefault(LAUNCHER, str(os.getpid()))
        fabric.launch()
    except Exception as fault:
        reason = " ".join(str(fault).split())
        raise error(f"--devices {devices} --nodes {nodes} --device {device}: not possible here ({reason})") from fault
    return fabric


def _end_with(launcher: int) -> None:
    """End this process when the one that started it is gone, even by a kill: nobody else would end it."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _quiet_fabric() -> None:
    """Of what Fabric logs, keep warnings, and that it ends all processes because one has failed."""
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
