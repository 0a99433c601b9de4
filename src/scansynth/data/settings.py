"""Which slices a run trains on, and what its scans are taken to be."""

from dataclasses import dataclass, field
from typing import Literal

from scansynth.data.augmentation import Augmentation
from scansynth.data.contrasts import standard_name
from scansynth.errors import InputError
from scansynth.ranges import Count, Share, check_ranges


@dataclass(frozen=True)
class DataSettings:
    """Which slices are trained on, and what the scans are taken to be."""

    min_foreground: Share = 0.1
    """Slices with a smaller share of foreground are left out of training."""
    slices_per_subject: Count | None = None
    """Train on the contiguous block of so many axial slices of each subject that holds the most foreground (all where
    there are fewer); None: on all. min_foreground holds within the block too."""
    acceleration: tuple[tuple[str, int], ...] = ()
    """MR contrasts that count as accelerated scans, each with its fold in both in-plane dimensions (T1w 4: 16x in
    all): only the centre of k-space is kept, wherever the run reads a scan."""
    defaults: Literal["none", "common", "adni", "spine"] = "none"
    """What stands for a TR or TE that is not known, where a method reads them: nothing (an error), or usual values of
    the contrast, with a warning (`physics.acquisition.USUAL`)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the training images; all off by default."""

    def __post_init__(self):
        check_ranges(self)
        names = [contrast for contrast, _ in self.acceleration]
        for contrast, fold in self.acceleration:
            if fold < 1:
                raise InputError(f"acceleration {contrast} {fold}: the fold must be at least 1")
            if standard_name(contrast) == "CT":
                raise InputError("acceleration CT: a CT has no k-space; name MR contrasts only")
            if names.count(contrast) > 1:
                raise InputError(f"acceleration: {contrast} is named {names.count(contrast)} times; give one fold")
