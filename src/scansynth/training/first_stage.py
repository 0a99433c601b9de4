"""The trained run that another one builds on: opened, and copied into the run it serves, which is then whole.

first_stage/config.yaml          of that run
first_stage/weights.safetensors  of what it synthesises with
first_stage/stage.json           hash and training step of the weights
first_stage/latents.json         in its place, of the autoencoder of a latent method: also mean and deviation of the
                                 training latents where they show foreground, by channel
first_stage/first_stage/         the run that it builds on itself, where it does, and so on: a chain of runs

Latents of runs of before have no mean, which is 0 then, and a deviation over whole slices: they go on with theirs.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from scansynth.config import RunConfig, read_yaml, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import Acceleration, read_image, to_network
from scansynth.data.foreground import foreground_threshold
from scansynth.data.latents import LatentStore
from scansynth.data.made import MadeStore
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.files import write_bytes, write_text
from scansynth.methods import find_method
from scansynth.methods.autoencoder import Autoencoder
from scansynth.ranges import Finite, Natural, Positive
from scansynth.records import read_json
from scansynth.training.checkpoint import load_weights, restore, step_of

log = logging.getLogger(__name__)

FOLDER = "first_stage"
WEIGHTS = "weights.safetensors"
AT_ONCE = 16
"""Slices that are encoded together."""


class _State(TypedDict):
    sha256: str
    training_step: Natural
    mean: NotRequired[list[Finite]]
    deviation: NotRequired[list[Positive]]


class FirstStage(nn.Module):
    """A trained run of a method; it is not trained any more.

    Args:
        config: of its run.
        weights: of the networks that it synthesises with, as the content of a safetensors file.
        step: training steps of the weights.
        source: where they are from, for messages.
        before: the run that it builds on itself.
    """

    STATE: ClassVar[str] = "stage.json"

    def __init__(
        self, config: RunConfig[Any], weights: bytes, step: int, source: Path, *, before: "FirstStage | None" = None
    ):
        super().__init__()
        self.method = find_method(config.method)(config.settings, config.contrasts)
        self.method.first_stage = self.before = before
        restore({name: self.method.nets[name] for name in self.method.averaged}, load(weights), source)
        self.method.eval().requires_grad_(False)
        self.config, self.weights, self.step = config, weights, step
        self.sha256 = hashlib.sha256(weights).hexdigest()

    @classmethod
    def of_run(cls, run: Path, cohort: Cohort, config: RunConfig[Any]) -> "FirstStage":
        """That of a run folder; of latents, what they are normalised by is not known yet.

        Args:
            run: the run folder.
            cohort: that it must have been trained on.
            config: of the run that it shall serve.

        Raises:
            InputError: if it is a run of another method, of another cohort or other contrasts, or sees the scans
                otherwise.
        """
        if not (run / "config.yaml").is_file():
            raise InputError(f"--first-stage {run}: not a run folder (no config.yaml)")
        own = read_yaml(run / "config.yaml")
        find_method(config.method).check_first_stage(config.settings, own.method, own.settings, str(run))
        PreparationRecord.read(run).check_same(cohort, run)
        if unknown := [name for name in config.contrasts if name not in own.contrasts]:
            raise InputError(f"--first-stage {run}: it was not trained on {unknown[0]}")
        kind = kind_of(own)
        kind.check_alike(own, config, run)
        before = cls.read(run / FOLDER) if builds_on(own) else None
        tensors, source = load_weights(run)
        own_nets = find_method(own.method)(own.settings, own.contrasts).averaged
        needed = {key: tensor for key, tensor in tensors.items() if key.split("/")[0] in own_nets}
        return kind(own, save(needed), step_of(source), source, before=before)

    @classmethod
    def read(cls, folder: Path) -> "FirstStage":
        """The copy in a run folder.

        Raises:
            InputError: if it is damaged.
        """
        try:
            config = read_yaml(folder / "config.yaml")
            kind = kind_of(config)
            state, weights = (
                read_json(folder / kind.STATE, _State, "train the run anew"),
                (folder / WEIGHTS).read_bytes(),
            )
            before = cls.read(folder / FOLDER) if builds_on(config) else None
            stage = kind(config, weights, state["training_step"], folder, before=before)
            if stage.sha256 != state["sha256"]:
                raise InputError("the weights are not those that were copied there")
            stage.take(state)
        except Exception as error:  # files, JSON, keys and safetensors each have their own
            why = " ".join(str(error).split())
            raise InputError(f"{folder}: the first stage cannot be read ({why}); train the run anew") from error
        return stage

    def write(self, folder: Path) -> None:
        """Copy it into a run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", to_yaml(self.config))
        write_bytes(folder / WEIGHTS, self.weights)
        state = {**self.kept(), "sha256": self.sha256, "training_step": self.step}
        write_text(folder / self.STATE, json.dumps(state, indent=1))
        if self.before:
            self.before.write(folder / FOLDER)

    @classmethod
    def check_alike(cls, own: RunConfig[Any], config: RunConfig[Any], run: Path) -> None:
        """Raise InputError if a run does not see what the run that it shall serve sees.

        Args:
            own: its settings.
            config: of that one.
            run: its folder, for messages.
        """
        if own.contrasts != config.contrasts:
            raise InputError(
                f"--first-stage {run}: a run on {', '.join(own.contrasts)}, this one is on "
                f"{', '.join(config.contrasts)}: both need the same ones in the same order, give --contrasts "
                f"{' '.join(own.contrasts)}"
            )
        if dict(own.data.acceleration) != dict(config.data.acceleration):
            raise InputError(
                f"--first-stage {run}: it sees contrasts at other accelerations than this run: give both the same "
                "--data.acceleration"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides what it makes: weights, settings and contrasts, and the runs that it builds on."""
        config = self.config
        own = [self.sha256, config.method, asdict(config.settings), config.contrasts]
        return hashlib.sha256(json.dumps([own, self.before and self.before.fingerprint]).encode()).hexdigest()

    def made(self, cohort: Cohort, acceleration: Acceleration) -> MadeStore:
        """Where what it made of a cohort lies (`training/previous.py`)."""
        key = json.dumps([self.fingerprint, cohort.fingerprint, [list(one) for one in acceleration]])
        return MadeStore(cohort.folder / "made" / hashlib.sha256(key.encode()).hexdigest()[:16])

    def kept(self) -> dict[str, Any]:
        """What is kept beside the weights."""
        return {}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take what was kept."""


class LatentStage(FirstStage):
    """A trained autoencoder of slices; of its latents the mean is taken, and they are divided by their deviation.

    Both by channel, over the foreground of the training scans: background, which is most of a slice, says nothing of
    where tissue lies. Arguments as of `FirstStage`.
    """

    STATE = "latents.json"
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, config: RunConfig[Any], weights: bytes, step: int, source: Path, *, before: FirstStage | None = None
    ):
        super().__init__(config, weights, step, source, before=before)
        assert isinstance(self.method, Autoencoder)
        self.autoencoder = self.method
        self.channels, self.factor = self.autoencoder.config.latent_channels, self.autoencoder.factor
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("deviation", torch.ones(self.channels))

    @classmethod
    def check_alike(cls, own: RunConfig[Any], config: RunConfig[Any], run: Path) -> None:
        """It encodes each contrast by itself, of an accelerated one too."""

    def kept(self) -> dict[str, Any]:
        """Mean and deviation."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    def take(self, state: Mapping[str, Any]) -> None:
        """Mean and deviation."""
        deviation = state["deviation"]
        mean = state.get("mean", [0.0] * len(deviation))
        if not len(mean) == len(deviation) == self.channels:  # one number would be taken for all channels
            raise InputError(f"{self.STATE} has not one mean and deviation for each of {self.channels} channels")
        self.normalise(mean, deviation)

    def normalise(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """From now on latents are z − mean, over the deviation, (c,) each."""
        self.mean.copy_(torch.tensor(mean))
        self.deviation.copy_(torch.tensor(deviation))

    def encode(self, x: Tensor) -> Tensor:
        """Images (N, 1, H, W) in [−1, 1] → latents (N, c, H/f, W/f), of mean 0 and variance 1 where tissue is."""
        return (self.autoencoder.encode(x) - self.mean[:, None, None]) / self.deviation[:, None, None]

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (N, c, H/f, W/f) → images (N, 1, H, W), unbounded."""
        return self.autoencoder.decode(latent * self.deviation[:, None, None] + self.mean[:, None, None])

    @torch.no_grad()
    def background(self, size: Sequence[int]) -> Tensor:
        """The latent of a slice (H, W) that shows nothing, (c, H/f, W/f), on the CPU: what lies beside a volume."""
        device = next(self.autoencoder.parameters()).device  # which `compute_latents` moves, and the deviation not
        latent = self.autoencoder.encode(-torch.ones(1, 1, *size, device=device))[0].cpu()
        return (latent - self.mean.cpu()[:, None, None]) / self.deviation.cpu()[:, None, None]

    def store(self, cohort: Cohort, acceleration: Acceleration) -> LatentStore:
        """Where its latents of a cohort lie."""
        key = json.dumps([self.sha256, cohort.fingerprint, [list(one) for one in acceleration]])
        return LatentStore(cohort.folder / "latents" / hashlib.sha256(key.encode()).hexdigest()[:16])


def builds_on(config: RunConfig[Any]) -> str | None:
    """The method of the run that another one builds on; None where it stands alone."""
    return find_method(config.method).builds_on(config.settings)


def kind_of(config: RunConfig[Any]) -> type[FirstStage]:
    """What a run is as a first stage."""
    return LatentStage if config.method == "autoencoder" else FirstStage


@torch.no_grad()
def compute_latents(
    stage: LatentStage, cohort: Cohort, contrasts: Sequence[str], acceleration: Acceleration, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Encode the training scans that are not encoded yet.

    Returns:
        Mean and deviation of the channels over the foreground, (c,) each.
    """
    store = stage.store(cohort, acceleration)
    scans = [
        (subject, contrast)
        for subject in cohort.subjects("train")
        for contrast in contrasts
        if contrast in cohort.available(subject)
    ]
    missing = [scan for scan in scans if not store.has(*scan)]
    if missing:
        log.info("%s: encoding %d of %d training scans", cohort.folder, len(missing), len(scans))
    autoencoder = stage.autoencoder.to(device)
    for subject, contrast in missing:
        image = read_image(cohort, subject, contrast, acceleration=acceleration)
        slices = to_network(image).movedim(2, 0)[:, None]
        encoded = [autoencoder.encode(some.to(device)).cpu() for some in slices.split(AT_ONCE)]
        latents = torch.cat(encoded).movedim(0, 3).numpy()
        store.write(subject, contrast, latents, foreground_places(image, contrast, stage.factor))
    return store.statistics(scans)


def foreground_places(image: Tensor, contrast: str, factor: int) -> np.ndarray:
    """Which places of a volume's latents show foreground: any of the f × f voxels that they stand for.

    Args:
        image: (X, Y, Z) in [0, 1].
        contrast: standard name.
        factor: f.

    Returns:
        (X/f, Y/f, Z) bool.
    """
    shown = image > foreground_threshold(image.numpy(), contrast, background=0.0)
    return functional.max_pool2d(shown.movedim(2, 0).float(), factor).movedim(0, 2).bool().numpy()
