"""The trained autoencoder of a latent method: opened, applied to a cohort once, and copied into the run it serves.

first_stage/config.yaml          of the autoencoder's run
first_stage/weights.safetensors  that it reconstructs best with
first_stage/latents.json         mean and deviation of the training latents where they show foreground, by channel; hash
                                 and training step of the weights

Runs of before have no mean, which is 0 then, and a deviation over whole slices: they go on with theirs.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.methods.autoencoder import Autoencoder
from scansynth.training.checkpoint import load_weights, restore, step_of

log = logging.getLogger(__name__)

FOLDER = "first_stage"
WEIGHTS = "weights.safetensors"
AT_ONCE = 16
"""Slices that are encoded together."""


class FirstStage(nn.Module):
    """A trained autoencoder of slices; of its latents the mean is taken, and they are divided by their deviation.

    Both by channel, over the foreground of the training scans: background, which is most of a slice, says nothing of
    where tissue lies.

    Args:
        config: of its run.
        weights: of encoder, decoder and codebook, as the content of a safetensors file.
        step: training steps of the weights.
        source: where they are from, for messages.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: RunConfig[Any], weights: bytes, step: int, source: Path):
        super().__init__()
        autoencoder = Autoencoder(config.settings, config.contrasts)
        restore({name: autoencoder.nets[name] for name in autoencoder.averaged}, load(weights), source)
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.config, self.weights, self.step = config, weights, step
        self.channels, self.factor = autoencoder.config.latent_channels, autoencoder.factor
        self.sha256 = hashlib.sha256(weights).hexdigest()
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("deviation", torch.ones(self.channels))

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

    @classmethod
    def of_run(cls, run: Path, cohort: Cohort, config: RunConfig[Any]) -> "FirstStage":
        """The autoencoder of a run folder; what its latents are normalised by is not known yet.

        Args:
            run: the run folder.
            cohort: that it must have been trained on.
            config: of the run that it shall serve.

        Raises:
            InputError: if it is no run of an autoencoder of slices, or of another cohort or other contrasts.
        """
        if not (run / "config.yaml").is_file():
            raise InputError(f"--first-stage {run}: not a run folder (no config.yaml)")
        own = read_yaml(run / "config.yaml")
        if own.method != "autoencoder" or own.settings.patch is not None:
            kind = own.method if own.method != "autoencoder" else "an autoencoder of 3D patches"
            raise InputError(f"--first-stage {run}: a run of {kind}; an autoencoder of slices is needed")
        PreparationRecord.read(run).check_same(cohort, run)
        if unknown := [name for name in config.contrasts if name not in own.contrasts]:
            raise InputError(f"--first-stage {run}: it was not trained on {unknown[0]}")
        tensors, source = load_weights(run)
        own_nets = Autoencoder(own.settings, own.contrasts).averaged
        needed = {key: tensor for key, tensor in tensors.items() if key.split("/")[0] in own_nets}
        return cls(own, save(needed), step_of(source), source)

    @classmethod
    def read(cls, folder: Path) -> "FirstStage":
        """The copy in a run folder.

        Raises:
            InputError: if it is damaged.
        """
        try:
            state, weights = json.loads((folder / "latents.json").read_text()), (folder / WEIGHTS).read_bytes()
            stage = cls(read_yaml(folder / "config.yaml"), weights, state["training_step"], folder)
            if stage.sha256 != state["sha256"]:
                raise InputError("the weights are not those that were copied there")
            deviation = state["deviation"]
            stage.normalise(state.get("mean", [0.0] * len(deviation)), deviation)
        except Exception as error:  # files, JSON, keys and safetensors each have their own
            raise InputError(f"{folder}: the first stage cannot be read ({error}); train the run anew") from error
        return stage

    def write(self, folder: Path) -> None:
        """Copy it into a run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", to_yaml(self.config))
        (folder / WEIGHTS).write_bytes(self.weights)
        statistics = {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}
        state = {**statistics, "sha256": self.sha256, "training_step": self.step}
        write_text(folder / "latents.json", json.dumps(state, indent=1))

    def store(self, cohort: Cohort, acceleration: Acceleration) -> LatentStore:
        """Where its latents of a cohort lie."""
        key = json.dumps([self.sha256, cohort.fingerprint, [list(one) for one in acceleration]])
        return LatentStore(cohort.folder / "latents" / hashlib.sha256(key.encode()).hexdigest()[:16])


@torch.no_grad()
def compute_latents(
    stage: FirstStage, cohort: Cohort, contrasts: Sequence[str], acceleration: Acceleration, device: torch.device
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
