"""The contract of a method: what the engine and the synthesis ask of it, and what they give it.

A method is one paper in one file. It knows its losses, the order of its updates and its synthesis; it knows no
device, process, precision, logging or file. `docs/design.md` explains the choices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from scansynth.diffusion.windows import Windows, WindowsOfVolume
from scansynth.errors import InputError
from scansynth.needs import Needs
from scansynth.noise import Noise

Batch = Mapping[str, Any]
"""What a method gets. `images`: (B, K, *S) float32 in [-1, 1], 0 where unavailable; `available`: (B, K) bool.

Of sets of slices (`SliceSets`), in place of `images`: `slices` (B, n, K, H, W), `index` (B, n), `is_target` (B, n),
`valid` (B, n), and `depth` (B,), the slices of the volume.
"""


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
    """Share of the training that is done, where its end was moved on the way (`training/pace.py`); None:
    step by steps."""

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


Joined = Callable[[Tensor], tuple[Tensor, slice]]
"""`joined(part)`: a tensor's rows of the whole batch, (B_all, …), from those of this process, (B, …), and which of them
are its own."""


@dataclass(frozen=True)
class Made:
    """What a method makes of one subject."""

    image: Tensor
    """The target, (1, 1, X, Y, Z) in [-1, 1]."""
    observed: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """What the method saw of its own steps: a figure's name, then its value by time."""
    maps: Callable[[Windows], Mapping[str, Tensor]] | None = None
    """Makes the maps that the method's features stand for, of no patient measured and not checked, where it has some:
    through windows, by name and unit (`T1 (s)`), (1, 1, X, Y, Z) each."""


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
    """What it trains on, from its settings."""
    nets: nn.ModuleDict
    """What is trained and saved."""
    averaged: tuple[str, ...] = ()
    """Names of nets with an exponential moving average; synthesis uses the averages."""
    average_decay: float = 0.999
    not_distilled: ClassVar[str] = (
        "it makes an image in one network call, or not along one path from noise to the image, as distillation wants it"
    )
    """Why no run of it can be distilled to fewer calls (`distilled_settings`)."""
    reconstructs: ClassVar[bool] = False
    """Whether `translate` makes a contrast from itself (an autoencoder), not from the others."""

    def __init__(self, config: Any, contrasts: Sequence[str]):
        super().__init__()
        self.config = config
        self.contrasts = tuple(contrasts)
        self.needs = self.needs_of(config, self.contrasts)
        self.joined: Joined = lambda part: (part, slice(0, len(part)))
        """What the other processes of a training have; the engine puts it there. Without gradients."""
        self.first_stage: Any = None
        """The trained run that this one builds on (`builds_on`, `training/first_stage.py`): its `method`, and of a
        latent method `encode` and `decode`. The engine puts it there before anything is trained or translated."""

    @classmethod
    @abstractmethod
    def needs_of(cls, config: Any, contrasts: Sequence[str]) -> Needs:
        """What the method trains on, with these settings and contrasts: known before a network is built.

        Raises:
            InputError: if the settings do not fit each other.
        """

    @classmethod
    def builds_on(cls, config: Any) -> str | None:
        """The method of the trained run that this one builds on (train --first-stage); None: it stands alone."""
        return None

    @classmethod
    def check_first_stage(cls, config: Any, method: str, settings: Any, name: str) -> None:
        """Raise InputError if a run is none that this one can build on.

        Args:
            config: settings of this method.
            method: of that run.
            settings: of that run.
            name: its folder, for messages.
        """
        if method != cls.builds_on(config):
            raise InputError(f"--first-stage {name}: a run of {method}; one of {cls.builds_on(config)} is needed")

    @classmethod
    def distilled_settings(cls, config: Any, calls: int) -> Any:
        """Settings of a run that is distilled from one with these (scansynth distill), which it then builds on.

        Args:
            config: settings of the trained run.
            calls: network calls of a draw of the run that is distilled.

        Raises:
            InputError: if such a run cannot be distilled: why.
        """
        raise InputError(cls.not_distilled)

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

    @property
    def gives_mean(self) -> bool:
        """Whether `mean` has an image: where nothing is drawn, or one call of the networks estimates it."""
        return not self.stochastic

    @property
    def has_maps(self) -> bool:
        """Whether translations bring maps that the features stand for (`Made.maps`)."""
        return False

    def memory(self) -> Mapping[str, Tensor]:
        """What a training remembers beside weights and optimisers, by name; saved where it goes on from, only there.

        All processes must remember the same (`joined`).
        """
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Put `memory` back.

        Raises:
            InputError: if it is none of this method.
        """
        if memory:
            raise InputError(
                f"a training of {type(self).__name__} remembers nothing, here it does: {', '.join(memory)}"
            )

    def take_named_weights(self, *, started: bool) -> Mapping[str, str]:
        """Read the published weights that the settings name, as a training begins; nothing else reads them but losses.

        Args:
            started: whether another run's weights take the place of this one's afterwards (train --init).

        Returns:
            What came of it in words, by part: which file, or that there is none. The run keeps it, and its card and
            report say it.

        Raises:
            InputError: if a file is not what it should be.
        """
        return {}

    def adopted(self, tensors: Mapping[str, Tensor], contrasts: Sequence[str]) -> Mapping[str, Tensor] | None:
        """Weights of a run of more contrasts as weights of this one's networks; None where a method cannot tell.

        Args:
            tensors: `<net>/<parameter>` → values, of networks with the same settings.
            contrasts: of that run, this one's among them.
        """
        return None

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
    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """Make the target of one subject's whole prepared volume.

        Args:
            batch: `images` (1, K, X, Y, Z) and `available` (1, K); the target's channel is 0 and unavailable. Where
                the volume is a part of the prepared one: `index` (1, Z), which of its slices are here, and `depth`
                (1,), how many it has. Where the method asks for them (`Slices`), `neighbours` (1, K, 2n, X, Y, Z) of
                each slice, 0 where not given.
            target: name of the contrast to make.
            windows: cuts the volume for the networks.
            noise: its key names seed, subject and sample number.

        Returns:
            The image, with what the method saw of its own steps, and its maps.

        Raises:
            InputError: if this method needs a source that is not available.
        """

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """The mean of the target given the sources, E[x_0 | y], in one pass through the windows: least error, smooth.

        A diffusion model's x̂_0 at t = T is it, as almost nothing of the target is left there; it is of use where the
        network gives x̂_0 or the velocity, of whose error the estimate has no more (`parameterisation.py`). Arguments
        and errors are those of `translate`, which this is where nothing is drawn.
        """
        assert self.gives_mean, "only draws tell of this method's mean"
        return self.translate(batch, target, windows, noise)


@runtime_checkable
class Generator(Protocol):
    """A method that makes whole volumes without a source, as it is set (`Needs.generates`)."""

    plans: ClassVar[tuple[str, ...]]
    """Names of the plans by which it may generate; none where it makes a volume at once."""

    def stages(self, depth: int, plan: str | None = None) -> tuple[int, ...]:
        """Which stage makes each of a volume's slices, counted from 0; all 0 where they are made at once.

        Args:
            depth: slices of the volume.
            plan: one of `plans`; None: as the method is set.
        """
        ...

    def calls(self, shape: tuple[int, int, int], windows: WindowsOfVolume, plan: str | None = None) -> int:
        """Network calls that make a volume (X, Y, Z) through such windows."""
        ...

    def generate(
        self,
        shape: tuple[int, int, int],
        windows: Windows,
        noise: Noise,
        *,
        plan: str | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Make a whole prepared volume without a source.

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
        ...
