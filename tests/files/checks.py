"""What must hold of a prepared cohort. All are compared with the healthy head, whatever box the product chose."""

from typing import TYPE_CHECKING

import numpy as np

from .heads import AFFINE, PEOPLE, SPLITS, Head, case, head, person, tumour

if TYPE_CHECKING:
    from scansynth.data.cohort import Cohort

    from .registry import Check


def every(*checks: "Check") -> "Check":
    """All of them hold."""

    def check(cohort: "Cohort") -> None:
        for one in checks:
            one(cohort)

    return check


def follows(
    number: int = 2,
    contrast: str = "T1w",
    *,
    subject: str = "",
    truth: Head | None = None,
    affine: np.ndarray = AFFINE,
    least: float = 0.995,
) -> "Check":
    """The prepared scan shows the healthy head, voxel on voxel in the world, and lost none of it.

    Args:
        number: of the person.
        contrast: of the scan.
        subject: what the person is called, where it is not BIDS.
        truth: of the scan, where it is not the stripped head.
        affine: of `truth`.
        least: correlation in the head, so that any straight line of intensities will do.
    """

    def check(cohort: "Cohort") -> None:
        name = subject or person(number)
        shown, true, inside = _both(cohort, name, contrast, truth or head(number, contrast), affine)
        correlation = np.corrcoef(shown[inside], true[inside])[0, 1]
        assert correlation >= least, f"{name} {contrast}: correlation {correlation:.4f} with what was acquired"

    return check


def everyone_follows(*contrasts: str, people: int = PEOPLE) -> "Check":
    """All prepared scans of a BIDS cohort show their healthy heads."""
    return every(*(follows(number, contrast) for contrast in contrasts for number in range(1, people + 1)))


def uses_range(contrast: str, *numbers: int, least: float = 0.1) -> "Check":
    """The middle of these people's heads is not squeezed into the lowest part of [0, 1]."""

    def check(cohort: "Cohort") -> None:
        for number in numbers:
            middle = _middle(cohort, person(number), number, contrast)
            assert least <= middle <= 1, f"{person(number)} {contrast}: the middle of the head is {middle:.3f}"

    return check


def like_others(number: int, contrast: str) -> "Check":
    """A scan in other units ends in the same range as the others."""

    def check(cohort: "Cohort") -> None:
        others = [n for n in range(1, PEOPLE + 1) if n != number]
        usual = np.median([_middle(cohort, person(n), n, contrast) for n in others])
        found = _middle(cohort, person(number), number, contrast)
        assert 0.7 < found / usual < 1.4, f"{person(number)} {contrast}: {found:.3f}, others {usual:.3f}"

    return check


def in_hounsfield(number: int) -> "Check":
    """The prepared CT gives back the acquired HU."""

    def check(cohort: "Cohort") -> None:
        shown, true, inside = _both(cohort, person(number), "CT", head(number, "CT"), AFFINE)
        units = cohort.statistics["CT"].to_units(shown)
        error = float(np.median(np.abs(units - true)[inside]))
        assert error < 3, f"{person(number)} CT: {error:.1f} HU off"

    return check


def splits_stand(cohort: "Cohort") -> None:
    """Everybody is in the split that the data states."""
    found = {person(number): cohort.split_of(person(number)) for number in range(1, PEOPLE + 1)}
    assert tuple(found.values()) == SPLITS, f"splits are {found}"


def labels_stand(cohort: "Cohort") -> None:
    """Everybody's age is that of `participants.tsv`."""
    ages = [cohort.labels(person(number)).get("age") for number in range(1, PEOPLE + 1)]
    assert ages == [str(30 + number) for number in range(1, PEOPLE + 1)], f"ages are {ages}"


def all_have(*contrasts: str, brats: bool = False) -> "Check":
    """Everybody has these contrasts, and nobody another."""

    def check(cohort: "Cohort") -> None:
        for number in range(1, PEOPLE + 1):
            name = case(number) if brats else person(number)
            assert set(cohort.available(name)) == set(contrasts), f"{name} has {cohort.available(name)}"

    return check


def has_tumour(number: int) -> "Check":
    """The prepared mask holds every voxel of the lesion under its label."""

    def check(cohort: "Cohort") -> None:
        found = np.bincount(cohort.read_mask(case(number), "seg").ravel(), minlength=3)
        true = np.bincount(tumour(number).ravel(), minlength=3)
        assert found[1:].tolist() == true[1:].tolist(), f"{case(number)}: labels {found}, acquired {true}"

    return check


def _middle(cohort: "Cohort", name: str, number: int, contrast: str) -> float:
    """Median of the prepared image over the head."""
    shown, _, inside = _both(cohort, name, contrast, head(number, contrast), AFFINE)
    return float(np.median(shown[inside]))


def _both(cohort: "Cohort", name: str, contrast: str, truth: Head, affine: np.ndarray):
    """Prepared and true values of the voxels that both have, (n,) each, and which of these are in the head."""
    image = cohort.read(name, contrast)
    to_truth = np.linalg.inv(affine) @ cohort.affine(name, contrast)
    places = np.moveaxis(np.indices(image.shape), 0, -1) @ to_truth[:3, :3].T + to_truth[:3, 3]
    whole = np.rint(places).astype(int)
    off = float(np.abs(places - whole).max())
    assert off < 0.05, f"{name} {contrast}: {off:.2f} of a voxel away from where it was acquired"
    common = np.all((whole >= 0) & (whole < truth.array.shape), axis=-1)
    at = tuple(whole[common].T)
    inside = truth.mask[at]
    lost = int(truth.mask.sum() - inside.sum())
    assert not lost, f"{name} {contrast}: {lost} of {truth.mask.sum()} voxels of the head were cut off"
    return image[common], truth.array[at].astype(float), inside
