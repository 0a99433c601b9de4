"""The contract of a method: what the engine and the synthesis ask of it, and what they give it.

A method is one paper in one file. It knows its losses, the order of its updates and its synthesis; it knows no
device, process, precision, logging or file. `docs/design.md` explains the choices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scansynth.errors import InputError
from scansynth.noise import Noise
from scansynth.physics.acquisition import SequenceName

Batch = Mapping[str, Any]
"""What a method gets. `images`: (B, K, *S) float32 in [-1, 1], 0 where unavailable; `available`: (B, K) bool.

Of sets of slices (`SliceSets`), in place of `images`: `slices` (B, n, K, H, W), `index` (B, n), `is_target` (B, n),
`valid` (B, n), and `depth` (B,), the slices of the volume.
"""

LABEL_WIDTH = 64
"""Numbers of a label: whether it is known, then a number, or one of up to 63 classes (`data/labels.py`)."""


@dataclass(frozen=True)
class SliceSets:
    """Sets of axial slices of one volume, of a method that trains on them and makes volumes by them."""

    size: int
    """Slices of a set; smaller ones are padded."""
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    """From a volume's depth, which of its slices a training sample shows, and which of those are targets: (n,) int64
    and (n,) bool, n ≤ `size`. The dataset calls it, so that no volume is read for a few slices."""
    stages: Callable[[int], int]
    """From a volume's depth, how many sets it is made in."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method trains on."""

    unit: Literal["slice", "patch", "latent", "slice_set"]
    """What one sample is. `slice`: an axial slice, S = (H, W). `patch`: a box of a volume, S = `patch`. `latent`: a
    slice as the first stage encodes it; training batches have `latents` (B, K, c, h, w) in place of images.
    `slice_set`: some axial slices of one volume, `slice_sets`."""
    paired: bool
    """True: the contrasts of a sample show one subject and slice. False: each contrast is drawn on its own."""
    size_multiple: int = 1
    """All sides of an image must be multiples of this (2 to the number of the networks' downsamplings)."""
    patch: tuple[int, int, int] | None = None
    """Voxels of a patch, (X, Y, Z)."""
    latent: tuple[int, int] | None = None
    """Channels of a latent, and how many times smaller than an image it is."""
    tissue: bool = False
    """Whether batches have `tissue`, (B, K, 4, *S): densities of white matter, grey matter, CSF and tumour by each
    contrast alone, 0 where unavailable."""
    slice_sets: SliceSets | None = None
    """Which slices are put together, where the unit is a set of them."""
    labels: tuple[str, ...] = ()
    """Labels of subjects (age, sex), of a method that generates sets of slices by them: training batches then have
    `labels`, (B, LABEL_WIDTH for each), 0 where a label is not known."""
    sequences: Mapping[str, SequenceName] | None = None
    """Contrast → signal equation, of a method that trains with acquisition parameters: training batches then have
    `acquisition`, (B, K, 4): TR, TE, TI in ms and flip angle in degrees, 0 where unavailable or not of the sequence."""


@dataclass(frozen=True)
class Progress:
    """How far a training is; it survives a resume."""

    step: int
    """Training steps finished before this one."""
    steps: int
    """Training steps in all."""
    epoch: float
    """Passes over the training samples finished."""
    share: float | None = None
    """Share of the training that is done, where its end was moved on the way (`pace.py`); None: step by steps."""

    @property
    def fraction(self) -> float:
        """Share of the training that is done, in [0, 1)."""
        return self.step / max(self.steps, 1) if self.share is None else self.share


class Update(Protocol):
    """`update(player, losses)`: one optimisation step of one player."""

    def __call__(self, player: str, losses: Mapping[str, Tensor]) -> None:
        """Back-propagate the sum of the named losses into that player's parameters only, and step.

        Clips, steps, and moves the averages of that player's networks. The names are what is logged.
        """
        ...


class Windows(Protocol):
    """How a volume is cut up for the networks and put together again (`diffusion/windows.py`)."""

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """Apply `function` to the windows of the volumes, (1, C, *S) each, and blend what it returns.

        A volume whose side is 1 along a cut axis is given whole to every window.
        """
        ...


class Encodes(Protocol):
    """A trained first stage (`first_stage.py`)."""

    def encode(self, x: Tensor) -> Tensor:
        """Images (N, 1, H, W) in [−1, 1] → latents (N, c, H/f, W/f) of unit variance."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Latents → images, unbounded."""
        ...


class Method(nn.Module, ABC):
    """Base of all methods.

    Args:
        config: the method's settings, an instance of its `Config`.
        contrasts: names of the K contrasts of a batch, in the order of its channels.

    Raises:
        InputError: if the method cannot work with these contrasts.
    """

    Config: ClassVar[type]
    """Frozen dataclass of settings; the defaults are the paper's. `Config.tiny()` trains in seconds, for tests."""
    needs: Needs
    nets: nn.ModuleDict
    """What is trained and saved."""
    averaged: tuple[str, ...] = ()
    """Names of nets with an exponential moving average; synthesis uses the averages."""
    average_decay: float = 0.999
    reconstructs: ClassVar[bool] = False
    """Whether `translate` makes a contrast from itself (an autoencoder), not from the others."""
    generates: bool = False
    """Whether it makes volumes without a source (`generate`), and not from one (`translate`)."""
    plans: ClassVar[tuple[str, ...]] = ()
    """Names of the plans by which it may generate, where it makes a volume in stages."""

    def __init__(self, config: Any, contrasts: Sequence[str]):
        super().__init__()
        self.config = config
        self.contrasts = tuple(contrasts)
        self.first_stage: Encodes | None = None
        """Of a latent method; the engine puts it there before anything is translated."""
        self.observed: dict[str, dict[int, float]] = {}
        """What the last `translate` saw of its own steps: a figure's name, then its value by time."""

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Contrasts that this method can make."""

    @property
    @abstractmethod
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the nets that each player's update trains; every net belongs to one player."""

    @property
    def stochastic(self) -> bool:
        """Whether two samples of one subject differ."""
        return True

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one image."""
        return 1

    @property
    def passes(self) -> int:
        """How often `translate` goes through a volume's windows."""
        return self.sampling_steps

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """A fresh optimiser for each player."""

    def lr_factor(self, player: str, progress: Progress) -> float:
        """What the player's learning rate is multiplied by."""
        return 1.0

    @abstractmethod
    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One training step: compute losses and call `update` for each player, in the paper's order."""

    @abstractmethod
    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Tensor:
        """Make the target of one subject's whole prepared volume.

        Args:
            batch: `images` (1, K, X, Y, Z) and `available` (1, K); the target's channel is 0 and unavailable. Where
                the volume is a part of the prepared one: `index` (1, Z), which of its slices are here, and `depth`
                (1,), how many it has.
            target: name of the contrast to make.
            windows: cuts the volume for the networks.
            noise: its key names seed, subject and sample number.

        Returns:
            (1, 1, X, Y, Z) in [-1, 1].

        Raises:
            InputError: if this method needs a source that is not available.
        """

    def stages(self, depth: int, plan: str | None = None) -> tuple[int, ...]:
        """Which stage makes each of a volume's slices, counted from 0; all 0 where they are made at once.

        Args:
            depth: slices of the volume.
            plan: one of `plans`; None: as the method is set.
        """
        return (0,) * depth

    def generate(
        self,
        shape: tuple[int, int, int],
        windows: Windows,
        noise: Noise,
        *,
        plan: str | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Make a whole prepared volume without a source, where `generates`.

        Args:
            shape: of the volume, (X, Y, Z).
            windows: tell of the network calls, or cut the volume for the networks.
            noise: its key names seed and sample number.
            plan: one of `plans`; None: as the method is set.
            labels: of the subject to make, (1, LABEL_WIDTH for each of `needs.labels`), as `data/labels.py` encodes
                them; None: none is known.

        Returns:
            (1, 1, X, Y, Z) in [-1, 1].

        Raises:
            InputError: if this method, as it is set, only translates.
        """
        raise InputError(f"{type(self).__name__} makes a contrast from others: translate with it, or choose another")

    def hypothetical_maps(
        self, batch: Batch, target: str, image: Tensor, windows: Windows, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Maps that the method's features stand for, where it has some: of no patient measured, and not checked.

        Args:
            batch: as in `translate`.
            target: name of the contrast that was made.
            image: what `translate` made, (1, 1, X, Y, Z) in [-1, 1].
            windows: cuts the volume for the networks.
            noise: of the same key.

        Returns:
            By name and unit (`T1 (s)`), (1, 1, X, Y, Z) each; none by default.
        """
        return {}
