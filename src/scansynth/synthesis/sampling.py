"""How a translation is drawn: what somebody chooses, handed down as one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from scansynth.ranges import Count, Seed, Share


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What is drawn of a target, and what is kept of it."""

    samples: Count = 1
    """How many to draw; with several the mean, the standard deviation and each sample are written."""
    shared_noise: bool = False
    """One noise image for all slices: neighbours agree better."""
    at_once: Annotated[Count | None, arg(name="windows")] = None
    """Slices or patches that go through the networks at once: memory and speed, not the result."""
    memory: str | None = None
    """Memory that it may take, 8G or 800M: as many windows at once as fit, by a prediction. Where memory is out even
    so, half as many go on."""
    mean: bool = False
    """The mean of the target given the sources in place of a draw: the least error, but smooth. A draw has texture and
    may err in it; several tell how sure they are. One call of the networks gives the mean, or --samples draws do."""
    realism: Share = 1.0
    """From 0, the mean given the sources, to 1, a draw: how far to go from one to the other. For methods that give the
    mean in one call (ddpm by x̂_0 or velocity, flow, mrdiff, ldm, cola_diff). The sidecar says where it stood."""
    moments_only: bool = False
    """Keep only the mean and the standard deviation of several samples: memory does not grow with their number."""
    maps: bool = False
    """Also write the maps that the networks' features stand for (mrdiff: T1, T2, S0). Hypothetical: not measured."""
    intervals: bool = False
    """Also write half the width of the intervals that `scansynth calibrate` found for this run, in the image's unit."""
    seed: Seed = 0
    """Seed of the noise."""

    @property
    def told(self) -> dict[str, Any]:
        """What of a sidecar tells one translation from another."""
        return {
            "seed": self.seed, "samples": self.samples, "shared_noise": self.shared_noise, "maps": self.maps,
            # Sidecars of older versions say nothing of these.
            "mean": self.mean or None, "realism": None if self.realism == 1 else self.realism,
            "intervals": self.intervals or None,
        }  # fmt: skip

    def images(self, path: Path) -> list[Path]:
        """All images that a translation to `path` writes."""
        from scansynth.synthesis.writers.nifti import images_of  # which loads nibabel: `translate --help` is quick

        return images_of(
            path,
            samples=self.samples,
            moments_only=not self.keeps_samples,
            maps=self.maps,
            intervals=self.intervals,
        )

    @property
    def keeps_samples(self) -> bool:
        """Whether single samples are kept beside their mean and deviation."""
        return not (self.moments_only or self.mean)
