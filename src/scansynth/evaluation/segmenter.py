"""Segmenters that judge synthetic contrasts: a small U-Net trained on the cohort, or a command of the user's."""

import logging
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Image
from torch import Tensor, nn
from torch.nn import functional

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import Acceleration, read_image, to_network
from scansynth.data.readers import reading
from scansynth.errors import InputError
from scansynth.networks.unet import UNet
from scansynth.progress import Event, Report

log = logging.getLogger(__name__)

STEPS = 1500
BATCH = 8
MOST_LABELS = 16

Segment = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""Contrasts by name, (X, Y, Z) in [0, 1], and the affine (4, 4) → labels (X, Y, Z), integers, 0 outside."""


class Segmenter:
    """A small 2D U-Net that labels axial slices from a fixed list of contrasts.

    Args:
        contrasts: its channels.
        labels: the mask's values beside 0.
        seed: of its first weights.
    """

    def __init__(self, contrasts: Sequence[str], labels: Sequence[int], seed: int, device: torch.device):
        self.contrasts, self.labels, self.device = tuple(contrasts), tuple(labels), device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet(
                2, len(contrasts), 1 + len(labels), channels=16, multipliers=(1, 2, 4, 4), blocks=1,
                attention_levels=(), bottleneck_attention=False,
            )  # fmt: skip
        self.unet = unet.to(device)

    def logits(self, images: Tensor) -> Tensor:
        """Slices (B, K, H, W) in [0, 1] → (B, 1 + labels, H, W). Sides need be no multiples of anything."""
        height, width = images.shape[-2:]
        pad = [-side % self.unet.size_multiple for side in (width, height)]
        x = functional.pad(to_network(images.to(self.device)), (0, pad[0], 0, pad[1]), value=-1.0)
        return self.unet(x)[..., :height, :width]

    @torch.no_grad()
    def __call__(self, images: Mapping[str, np.ndarray], affine: np.ndarray) -> np.ndarray:
        """A `Segment`; the affine is not used."""
        volume = torch.from_numpy(np.stack([images[name] for name in self.contrasts], axis=0)).float().movedim(3, 0)
        places = torch.cat([self.logits(part).argmax(1).cpu() for part in volume.split(BATCH)])
        return np.asarray((0, *self.labels))[places.numpy()].transpose(1, 2, 0)


def train_segmenter(
    cohort: Cohort,
    contrasts: Sequence[str],
    mask: str,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: torch.device | None = None,
    acceleration: Acceleration = (),
    report: Report | None = None,
) -> Segmenter:
    """Train a segmenter on the acquired contrasts of the training subjects that have the mask.

    Half of the slices of a batch are drawn from those that show a label, half from all with tissue; half are mirrored
    left to right. Loss: cross entropy and soft Dice of the labels. AdamW, 10⁻³ falling to zero along a cosine.

    Args:
        cohort: a prepared cohort.
        contrasts: what it sees.
        mask: name of the mask that it learns, label values as they are.
        steps: updates of eight slices.
        seed: of weights and slices.
        device: where to train; by default the CPU.
        acceleration: of the contrasts, as the runs see them.
        report: told of every step.

    Raises:
        InputError: if no training subject has the mask and all contrasts, the mask is empty, or it has too many labels.
    """
    subjects = with_mask(cohort, "train", contrasts, mask)
    masks = {subject: cohort.read_mask(subject, mask) for subject in subjects}
    labels = sorted({int(value) for one in masks.values() for value in np.unique(one)} - {0})
    if not labels:
        raise InputError(f"{cohort.folder}: mask {mask!r} is empty in every training subject: nothing can be learnt")
    if len(labels) > MOST_LABELS:
        raise InputError(f"mask {mask!r} has {len(labels)} labels: a segmenter of up to {MOST_LABELS} is trained here")
    labelled = [(subject, int(z)) for subject in subjects for z in np.flatnonzero(masks[subject].any((0, 1)))]
    shown = [
        (subject, int(z))
        for subject in subjects
        for z in np.flatnonzero(np.max([cohort.foreground(subject, name) for name in contrasts], axis=0) > 0)
    ]
    segmenter = Segmenter(contrasts, labels, seed, device or torch.device("cpu"))
    optimizer = torch.optim.AdamW(segmenter.unet.parameters(), lr=1e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    classes = {subject: torch.from_numpy(np.searchsorted((0, *labels), one)) for subject, one in masks.items()}
    loss = torch.tensor(float("nan"))
    for step in range(steps):
        places = [(labelled, shown)[number % 2] for number in range(BATCH)]
        chosen = [pool[int(rng.integers(len(pool)))] for pool in places]
        slices = [
            [read_image(cohort, subject, name, acceleration=acceleration, z=z) for name in contrasts]
            for subject, z in chosen
        ]
        images = torch.stack([torch.stack(channels) for channels in slices])
        truth = torch.stack([classes[subject][:, :, z] for subject, z in chosen])
        mirrored = torch.from_numpy(rng.random(BATCH) < 0.5)
        images, truth = (torch.where(_column(mirrored, part), part.flip(-2), part) for part in (images, truth))
        loss = segmentation_loss(segmenter.logits(images), truth.to(segmenter.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(segmenter.unet.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if report:
            report(Event(step + 1, steps, f"segmenter of {'+'.join(contrasts)}"))
    log.info("segmenter of %s: %d steps, last loss %.3f", "+".join(contrasts), steps, loss.item())
    return segmenter


def _column(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (like.ndim - 1))


def segmentation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy plus one minus the mean soft Dice of the labels (over the batch, background left out).

    Args:
        logits: (B, 1 + L, H, W).
        truth: (B, H, W) class numbers.
    """
    shares = logits.softmax(1)[:, 1:]
    wanted = functional.one_hot(truth, logits.shape[1]).movedim(-1, 1)[:, 1:].to(shares.dtype)
    axes = (0, 2, 3)
    soft = (2 * (shares * wanted).sum(axes) + 1) / (shares.sum(axes) + wanted.sum(axes) + 1)
    return functional.cross_entropy(logits, truth) + 1 - soft.mean()


def with_mask(cohort: Cohort, split: str, contrasts: Sequence[str], mask: str) -> list[str]:
    """Subjects of a split that have a mask and all contrasts.

    Raises:
        InputError: if there is none.
    """
    subjects = [
        subject
        for subject in cohort.subjects(split)
        if mask in cohort.masks(subject) and set(contrasts) <= set(cohort.available(subject))
    ]
    if not subjects:
        known = sorted({name for subject in cohort.subjects() for name in cohort.masks(subject)})
        raise InputError(
            f"{cohort.folder}: no {split} subject has {', '.join(contrasts)} and a mask {mask!r} "
            f"(masks that there are: {', '.join(known) or 'none'})"
        )
    return subjects


def command_segmenter(command: str) -> Segment:
    """A user's own segmenter.

    Args:
        command: what to run for a subject, with `{T1w}` and so on in place of the NIfTI file of each contrast that it
            reads, and `{output}` in place of the label map (NIfTI, on the same grid) that it writes. No shell reads it.

    Raises:
        InputError: if the command names no output; later, if it fails or writes something else.
    """
    words = shlex.split(command)
    if not any("{output}" in word for word in words):
        raise InputError(f"--segmenter {command!r}: name the file that it writes as {{output}}")

    def segment(images: Mapping[str, np.ndarray], affine: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            files = {name: str(Path(folder, f"{name}.nii.gz")) for name in images}
            for name, path in files.items():
                image = Nifti1Image(images[name].astype(np.float32), affine)
                image.header["descrip"] = b"prepared for a segmenter; may be synthetic"
                image.to_filename(path)
            output = Path(folder, "labels.nii.gz")
            try:
                filled = [word.format(**files, output=output) for word in words]
            except (KeyError, IndexError) as error:
                raise InputError(
                    f"--segmenter: no contrast {error} here; there are {', '.join(files)} and output"
                ) from error
            try:
                ended = subprocess.run(filled, capture_output=True, text=True, errors="replace", check=False)
            except OSError as error:
                raise InputError(f"--segmenter: {filled[0]} cannot be run: {error}") from error
            if ended.returncode or not output.exists():
                raise InputError(
                    f"--segmenter: {shlex.join(filled)} ended with {ended.returncode}"
                    f"{'' if output.exists() else ' and wrote no output'}: {ended.stderr.strip()[-500:]}"
                )
            with reading(output):
                labels = np.asanyarray(Nifti1Image.from_filename(output).dataobj)
        shape = next(iter(images.values())).shape
        if labels.shape != shape:
            raise InputError(f"--segmenter: labels {labels.shape} and images {shape} lie on different grids")
        return labels

    return segment
