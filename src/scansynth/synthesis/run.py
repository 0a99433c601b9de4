"""File in, file out: one subject's scans through a trained run.

as_volume          the sources: files, or in memory      (X, Y, Z) float32, RAS+
grid_for           the prepared grid, from the sources alone
prepare            sources → images in [0, 1]           (X', Y', Z')
as_acquired        accelerated sources at their low resolution
method.translate   a batch of one, in [-1, 1]           (1, K, X', Y', Z') → (1, 1, X', Y', Z')
undo               to the source's grid and the target's unit
Volume.write_array the original orientation and affine, with a sidecar that says "synthetic"
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

import scansynth
from scansynth.config import RunConfig, read_yaml
from scansynth.data.contrasts import standard_name
from scansynth.data.datasets import as_acquired, from_network, to_network
from scansynth.data.image_files import is_nifti
from scansynth.data.prepare import Undo, grid_for, labels_on, prepare, to_source
from scansynth.data.readers import reading
from scansynth.data.record import PreparationRecord
from scansynth.data.sources import Source, as_volume
from scansynth.data.subject import stem_of
from scansynth.data.tissue import from_labels, segment
from scansynth.data.volume import Volume
from scansynth.devices import find_device
from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError, located
from scansynth.files import LEADS_OUT, leading_out
from scansynth.given import given, sources_for
from scansynth.method import Method
from scansynth.metrics.conformal import Intervals, half_width
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise, SharedAlongSlices
from scansynth.physics.tissue import WEIGHTS
from scansynth.precision import Precision, synthesis_precision
from scansynth.progress import Event, Report, one_of
from scansynth.ranges import check_ranges
from scansynth.synthesis.card import Card, check_claims, read_card
from scansynth.synthesis.guard import guard
from scansynth.synthesis.image import NOTICE, Synthesis
from scansynth.synthesis.intervals import read_intervals
from scansynth.synthesis.memory import room_in_memory, windows_within
from scansynth.synthesis.moments import Moments
from scansynth.synthesis.places import find_run
from scansynth.synthesis.realism import between, check_realism, is_between
from scansynth.synthesis.sampling import Sampling
from scansynth.training.checkpoint import load_weights, restore, step_of, unvalidated
from scansynth.training.first_stage import FOLDER, FirstStage
from scansynth.training.pace import others_are_busy
from scansynth.training.parts import make_method
from scansynth.training.selection import Which

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """What a run makes of a prepared subject."""

    image: np.ndarray
    """The target, (X, Y, Z) float32 in [0, 1]."""
    observed: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """What the method saw of its own steps (`Made.observed`)."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Maps that the features stand for, by name and unit, (X, Y, Z) float32; 0 where no source shows anything."""


@contextmanager
def _built(folder: Path, numbers: int) -> Iterator[None]:
    """Around the making of a run's networks, which have no more numbers than its weights: a stranger's settings take no
    memory. Whatever is wrong with them names their file."""
    settings, made = folder / "config.yaml", 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter.numel() if parameter is not None else 0
        if made > numbers:
            raise InputError(f"networks of more numbers than the {numbers} of its weights: restore both, or train anew")

    handle = register_module_parameter_registration_hook(count)
    try:
        with located(settings), reading(settings):
            yield
    finally:
        handle.remove()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run, ready to synthesise."""

    folder: Path
    config: RunConfig[Any]
    method: Method
    record: PreparationRecord
    device: torch.device
    weights: Mapping[str, Any]
    """SHA-256 and training step of the weights."""
    chosen: Literal["last", "best"]
    """Which weights of the training these are: the last averages, or the best that were validated."""
    precision: Precision
    """What the networks compute in here."""
    card: Card | None = None
    """What an exported run says of itself."""

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", *, weights: Which = "auto") -> "Run":
        """Load a run.

        Args:
            folder: of the run, or another place that `find_run` (`synthesis/places.py`) knows.
            device: auto, cpu, cuda or mps.
            weights: last, best, or by rule (`training/selection.py`).

        Raises:
            InputError: if the folder holds no trained run, or not the weights that are asked for, or a link in it leads
                out of it, or an exported run is not what its card says.
        """
        folder = find_run(folder)
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder}: not a run folder (no config.yaml); give the --run of a `scansynth train`")
        for link in leading_out(folder):
            raise InputError(f"{link}: {LEADS_OUT}")
        card = read_card(folder)
        config = read_yaml(folder / "config.yaml")
        tensors, source = load_weights(folder, weights)
        if newer := unvalidated(folder, source):
            log.warning(
                "%s: the weights of step %d are taken, the best that were validated; those of step %d, the last, never "
                "were (training that goes on validates them)", folder, step_of(source), newer,
            )  # fmt: skip
        with _built(folder, sum(tensor.numel() for tensor in tensors.values())):
            method = make_method(config)
        restore(dict(method.nets.items()), tensors, source)
        if method.builds_on(config.settings):
            method.first_stage = FirstStage.read(folder / FOLDER)
        place = find_device(device)
        precision = synthesis_precision(config.training.precision, place)
        prepare_synthesis(method, place, precision)
        if place.type == "cpu" and others_are_busy(torch.get_num_threads()):
            torch.set_num_threads(1)
            log.info("threads: 1, as other programs use the processors, and several would wait for each other")
        digest = hashlib.sha256((source / "weights.safetensors").read_bytes()).hexdigest()
        run = cls(
            folder=folder,
            config=config,
            method=method,
            record=PreparationRecord.read(folder),
            device=place,
            weights={"sha256": digest, "training_step": step_of(source)},
            chosen="best" if source.parent.name == "best" else "last",
            precision=precision,
            card=card,
        )
        if card:
            check_claims(card, run)
        return run

    @property
    def name(self) -> str:
        """What provenance calls it, with the hash of its weights: its card's name, or its folder's own."""
        return self.card["name"] if self.card else self.folder.absolute().name

    def choose_target(self, target: str | None, sources: Mapping[str, Any]) -> str:
        """The contrast to make: the one named, or the only one that is not given.

        Raises:
            InputError: if it is unknown, given as a source, or not clear.
        """
        if target is None:
            missing = [name for name in self.method.targets if name not in sources]
            if len(missing) != 1:
                raise InputError(f"name the --target: this run makes {', '.join(self.method.targets)}")
            return missing[0]
        target = standard_name(target)
        if target not in self.method.targets:
            raise InputError(f"target {target!r}: the run {self.folder} makes {', '.join(self.method.targets)}")
        if target in sources:
            raise InputError(f"{target} is both source and target; leave it out of the sources")
        return target

    def translate(
        self,
        sources: Mapping[str, Source],
        target: str | None = None,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        subject: str | None = None,
        report: Report | None = None,
        tissue: str | Path | None = None,
        accept: Sequence[str] = (),
    ) -> Synthesis:
        """Make a contrast from the ones that are there.

        Sources that were accelerated in training are accelerated here too, so that the networks see what they know.
        But for the magnitude that is a projection, so that a scan which was acquired at this acceleration changes
        little (`physics/kspace.py`).

        Args:
            sources: contrast name → path of an image file, `Volume`, nibabel image, or (array, affine); all on one
                grid.
            target: the contrast to make; may be left out where only one is missing.
            sampling: how many samples, of which noise; of several the result is the mean, with the standard deviation.
            subject: name that keys the noise; by default the first source's file, or its hash where it has none.
            report: told of the network calls that are done.
            tissue: label image of tissues (`data/tissue.from_labels`) on the sources' grid, for a method that wants
                them; without it each source is segmented.
            accept: names of rules (`data/census_rules.py`) that the sources may break.

        Raises:
            InputError: for a contrast or file that does not fit, a source that cannot be right or that the run does not
                know the like of, or a method without maps or without tissue.
        """
        if self.method.reconstructs:
            raise InputError(
                f"{self.folder}: a run of {self.config.method} makes nothing from other contrasts: `evaluate` measures "
                "its reconstructions, and `train --first-stage` builds on it"
            )
        named = {standard_name(name): source for name, source in sources.items()}
        if not named:
            raise InputError(f"no source is given; this run takes {', '.join(self.config.contrasts)}")
        for name in named:
            if name not in self.config.contrasts:
                raise InputError(f"source {name!r}: the run {self.folder} knows {', '.join(self.config.contrasts)}")
        target = self.choose_target(target, named)
        self.check_sampling(sampling)
        if tissue and not self.method.needs.tissue:
            raise InputError(f"{self.folder}: a run of {self.config.method} with these settings reads no tissue labels")
        volumes = {name: as_volume(source, name) for name, source in named.items()}
        grid = grid_for(volumes, self.record.settings)
        spacing = np.linalg.norm(grid.affine[:3, :3], axis=0).tolist()
        self.method.needs.check_voxels(spacing, f"{self.folder}: the sources' grid")
        guarded = guard(
            self.record, volumes, grid, accept=accept, tissue=self.method.needs.tissue and not tissue, of=self.folder
        )  # fmt: skip
        images = torch.zeros(1, len(self.config.contrasts), *grid.shape)
        available = torch.zeros(1, len(self.config.contrasts), dtype=torch.bool)
        undo = Undo(grid)
        for name, volume in volumes.items():
            image, undo = prepare(volume, grid, name, self.record.settings.intensity, self.record.statistics[name])
            index = self.config.contrasts.index(name)
            images[0, index] = as_acquired(torch.from_numpy(image), name, self.config.data.acceleration)
            available[0, index] = True
        like = next(iter(volumes.values()))
        subject = subject or (_name_of(like.path) if like.path else like.name)
        densities = None
        if self.method.needs.tissue:
            labels = labels_on(Path(tissue), [(like.space, grid)]) if tissue else None
            densities = self.segmented(images, available, grid.affine, labels=labels)
        intervals = self.intervals(sampling).get(target) if sampling.intervals else None
        if intervals and set(intervals.sources) != set(named):
            raise InputError(
                f"{self.folder}: its intervals of {target} are of syntheses from {'+'.join(intervals.sources)}, not "
                f"from {'+'.join(named)}, which err otherwise: give those sources, or leave --intervals out"
            )
        at_once = sampling.at_once
        if sampling.memory and (part := self.shown(images, available, target, tissue=densities)):
            at_once = windows_within(sampling, self.method, part[0], target, mean=not self.realism_of(sampling))
        moments, prepared, kept, found = Moments(), Moments(), [], {}
        for sample in range(sampling.samples):
            kind = SharedAlongSlices if sampling.shared_noise else Noise
            noise = kind([(sampling.seed, subject, sample)], self.device)
            own = self.make(
                images,
                available,
                target,
                noise=noise,
                at_once=at_once,
                report=one_of(report, sample, sampling.samples),
                tissue=densities,
                maps=sampling.maps and not sample,
                realism=self.realism_of(sampling),
            )
            made = undo(own.image, self.record.statistics[target])
            moments.add(made)
            if intervals:
                prepared.add(own.image)
            found |= {name: to_source(array, grid, 0.0) for name, array in own.maps.items()}
            if sampling.samples > 1 and sampling.keeps_samples:
                kept.append(made)
        provenance = {**self.provenance(target, volumes, sampling, subject=subject), "SkullStripped": not guarded.skull}
        widths = {}
        if intervals:
            provenance["intervals_of"] = f"{intervals.subjects} validation subjects"
            center, deviation = prepared.mean(), prepared.deviation()
            for level in intervals.levels:
                width = half_width(center, deviation, intervals, level)
                low, high = (undo(edge, self.record.statistics[target]) for edge in (center - width, center + width))
                widths[level] = (high - low) / 2
        provenance |= guarded.told
        if self.method.needs.tissue:
            provenance["tissue"] = Path(tissue).name if tissue else "segmented from each source"
        return Synthesis(
            array=moments.mean(),
            deviation=moments.deviation(),
            samples=tuple(kept),
            provenance=provenance,
            like=like,
            maps=found,
            intervals=widths,
            given=volumes,
            files=tuple(Path(one) for one in (*(volume.path for volume in volumes.values()), tissue) if one),
        )

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise InputError if the method cannot draw so."""
        check_ranges(sampling)
        method = self.config.method
        check_realism(self.method, method, sampling.realism, samples=sampling.samples, mean=sampling.mean)
        if sampling.realism < 1 and (sampling.intervals or sampling.maps):
            raise InputError("intervals and maps are those of whole draws or of --mean: leave out --realism")
        if not self.method.stochastic and (sampling.samples > 1 or sampling.shared_noise):
            raise InputError(f"{method} draws nothing: leave out several samples and shared noise")
        if sampling.mean and self.method.gives_mean and sampling.samples > 1:
            raise InputError(f"{method} gives the mean in one call: leave out --samples, or --mean")
        if sampling.mean and not self.method.gives_mean and sampling.samples == 1:
            raise InputError(
                f"the mean of {method} with these settings is that of several draws: say how many, --samples 8"
            )
        if sampling.intervals:
            self.intervals(sampling)
        if sampling.mean and sampling.maps:
            raise InputError("maps are those of a draw: leave out --mean, or --maps")
        if sampling.maps and not self.method.has_maps:
            raise InputError(f"{self.folder}: a run of {method} with these settings has no maps")

    def intervals(self, sampling: Sampling) -> dict[str, Intervals]:
        """Intervals of this way of drawing, by target.

        Raises:
            InputError: if the run was not calibrated so.
        """
        return read_intervals(self, samples=sampling.samples, mean=sampling.mean)

    def segmented(
        self, images: torch.Tensor, available: torch.Tensor, affine: np.ndarray, *, labels: np.ndarray | None = None
    ) -> torch.Tensor:
        """Tissue densities by each source alone, of a method that wants them (`data/tissue.py`).

        Args:
            images: as the run sees them, (1, K, X, Y, Z) in [0, 1].
            available: (1, K) bool, which contrasts are sources.
            affine: of their grid, (4, 4), mm.
            labels: the user's own tissues, (X, Y, Z), in place of what is segmented.

        Returns:
            (1, K, 4, X, Y, Z); 0 where there is no source, or one that shows no tissue (CT).
        """
        voxel = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        found = torch.zeros(1, len(self.config.contrasts), 4, *images.shape[2:])
        for k, contrast in enumerate(self.config.contrasts):
            if available[0, k] and contrast in WEIGHTS:
                own = segment(images[0, k].numpy(), contrast, voxel) if labels is None else from_labels(labels)
                found[0, k] = torch.from_numpy(own)
        return found

    @torch.no_grad()
    def make(
        self,
        images: torch.Tensor,
        available: torch.Tensor,
        target: str,
        *,
        noise: Noise,
        at_once: int | None = None,
        report: Report | None = None,
        tissue: torch.Tensor | None = None,
        maps: bool = False,
        realism: float = 1.0,
    ) -> Sample:
        """Translate a prepared subject.

        Args:
            images: as the run sees them (`as_acquired`), (1, K, X, Y, Z) in [0, 1]; the target's channel is not read.
            available: (1, K) bool, which contrasts are sources.
            target: the contrast to make.
            noise: its key names seed, subject and sample.
            at_once: slices or patches that go through the networks at once.
            report: told of the network calls that are done.
            tissue: of a method that wants it, densities by each source, (1, K, 4, X, Y, Z).
            maps: also the maps that the features of a method which `has_maps` stand for.
            realism: from 0, the target's mean given the sources, to 1, a draw (`synthesis/realism.py`); below 1 of a
                method that gives the mean.

        Returns:
            The target. Slices in which no source shows anything are background.

        Raises:
            InputError: if the networks give NaN.
        """
        whole = torch.zeros(images.shape[2:])
        part = self.shown(images, available, target, tissue=tissue)
        if part is None:
            return Sample(whole.numpy())
        batch, slab = part
        shape = batch["images"].shape[2:]
        windows = self.windows(shape, at_once, report, realism=realism)
        with room_in_memory(self.folder):
            made = (self.method.translate if realism else self.method.mean)(batch, target, windows, noise)
            mean = self.method.mean(batch, target, windows, noise).image.clamp(-1, 1) if is_between(realism) else None
        if mean is not None:
            made = replace(made, image=between(mean, made.image.clamp(-1, 1), realism))
        if not torch.isfinite(made.image).all():
            raise InputError(f"{self.folder}: the networks give NaN; the training diverged, use an earlier run")

        def placed(volume: torch.Tensor) -> np.ndarray:
            result = whole.clone()
            result[..., slab] = volume[0, 0].cpu()
            return result.numpy()

        found = {}
        if maps:
            assert made.maps is not None, f"{self.config.method} says that it has maps"
            found = made.maps(self.windows(shape, at_once))
        image = placed(from_network(made.image).clamp(0, 1))
        return Sample(image, made.observed, {name: placed(one) for name, one in found.items()})

    def shown(
        self, images: torch.Tensor, available: torch.Tensor, target: str, *, tissue: torch.Tensor | None = None
    ) -> tuple[dict[str, torch.Tensor], slice] | None:
        """The batch of the slices that are synthesised, and which they are; None where no source shows anything."""
        self.method.needs.check_volume(images.shape[2:])
        readable = sources_for(target, self.config.contrasts, reconstructs=self.method.reconstructs)
        places = (images * (available & readable)[..., None, None, None] > 0).flatten(0, 3).any(0).nonzero().flatten()
        if not len(places):
            return None
        slab = self.method.needs.slab(int(places[0]), int(places[-1]) + 1, images.shape[4])
        subject = {"images": to_network(images), "available": available}
        if tissue is not None:
            subject["tissue"] = tissue
        return {
            key: value.to(self.device)
            for key, value in given(subject, readable, slab, neighbours=self.method.needs.neighbours).items()
        }, slab

    def windows(
        self, shape: Sequence[int], at_once: int | None, report: Report | None = None, *, realism: float = 1.0
    ) -> Windows:
        """The method's windows, which tell of the network calls that are done for a volume (X, Y, Z)."""
        if report is None:
            return self.method.needs.windows(at_once)
        total, done = self.calls(shape, at_once, realism=realism), count(1)
        return self.method.needs.windows(at_once, lambda: report(Event(next(done), total)))

    def calls(self, shape: Sequence[int], at_once: int | None = None, *, realism: float = 1.0) -> int:
        """Network calls that make a prepared volume (X, Y, Z) so realistic, with so many windows at once."""
        passes = self.method.passes * (realism > 0) + (realism < 1)
        return passes * self.method.needs.windows(at_once).ticks(shape)

    def realism_of(self, sampling: Sampling) -> float:
        """How far from the mean to a draw its images lie: 0 for a mean that the method gives in one call."""
        return 0.0 if sampling.mean and self.method.gives_mean else sampling.realism

    def provenance(
        self, target: str, sources: Mapping[str, Volume], sampling: Sampling, *, subject: str
    ) -> dict[str, Any]:
        """What a sidecar says of an image's making."""
        realism = self.realism_of(sampling)
        return {
            "synthetic": True,
            "notice": NOTICE,
            "target": target,
            "unit": self.record.statistics[target].unit,
            "subject": subject,
            # Names of files alone: folders may be named by patients or people who work with them.
            "sources": {name: volume.path.name if volume.path else volume.name for name, volume in sources.items()},
            "acceleration": {  # of what went in and what came out, along each in-plane axis
                name: [fold, fold] for name, fold in self.config.data.acceleration if name in (*sources, target)
            },
            "method": self.config.method,
            "run": self.name,
            "weights": dict(self.weights),
            "weights_chosen": self.chosen,
            **sampling.told,
            "sampling_steps": self.method.sampling_steps * (realism > 0) + (realism < 1),
            "sampler": getattr(self.config.settings, "sampler", None) if realism else None,
            "precision": self.precision,
            "versions": {"scansynth": scansynth.__version__, "torch": torch.__version__},
        }


def _name_of(file: Path) -> str:
    """A file's name without ending, by which its noise is keyed."""
    name = file.name.removesuffix(".gz").removesuffix(".nii")  # in small letters alone, as it always was
    return name if is_nifti(file.name) else stem_of(name)
