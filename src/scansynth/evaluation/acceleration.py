"""How tables name the acceleration of contrasts: figures of accelerated and of full scans cannot be compared."""

from scansynth.data.datasets import Acceleration


def accelerated(acceleration: Acceleration) -> dict[str, int]:
    """The contrasts that are accelerated, with their fold along both axes of an axial slice."""
    return {contrast: fold for contrast, fold in acceleration if fold > 1}


def acceleration_text(acceleration: Acceleration) -> str:
    """`T2w 4×4`; empty where nothing is accelerated."""
    return ", ".join(f"{contrast} {fold}×{fold}" for contrast, fold in accelerated(acceleration).items())


def acceleration_note(acceleration: Acceleration) -> list[str]:
    """A sentence for people; none where nothing is accelerated."""
    folds = [f"{contrast} accelerated {fold}×{fold}" for contrast, fold in accelerated(acceleration).items()]
    return [f"{', '.join(folds)}, as source, copied source and truth."] if folds else []
