"""What may be odd about a scan, alone or beside the others of its census: one function a rule (`census_rules.py`).

Each takes a scan, its census and the rule's threshold, and says in words what is wrong, or None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from scansynth.data.scan_facts import ScanFacts
from scansynth.data.splits import person_of
from scansynth.data.usual import FIGURES, Usual, deviation_of, has_skull

LEAST_OTHERS = 6
"""Scans of a contrast from which on one can be unlike the others."""


@dataclass(frozen=True, kw_only=True)
class Others:
    """What a scan is held against: the census that it belongs to."""

    scans: Sequence[ScanFacts]
    splits: Mapping[str, str]
    cuts: Mapping[tuple[str, str], float]
    """Share of a scan's foreground that the prepared box leaves out."""
    tissue: bool = False
    """Whether tissue is segmented in the scans."""
    usual: Mapping[str, Usual] = field(default_factory=dict)
    """Of sources of a translation: what the run's training scans are like, by contrast."""
    worked: tuple[float | None, float | None, float | None] = (None, None, None)
    """Voxel size, mm, to which both are resampled; None along axes that are kept as acquired."""
    _usual: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict, repr=False)

    @cached_property
    def by_contrast(self) -> dict[str, list[ScanFacts]]:
        """Scans of each contrast."""
        found: dict[str, list[ScanFacts]] = {}
        for scan in self.scans:
            found.setdefault(scan.contrast, []).append(scan)
        return found

    def usual_of(self, contrast: str, name: str, figure: Callable[[ScanFacts], float]) -> tuple[float, float]:
        """Median and robust deviation of a figure over the contrast's scans; asked once a census, not once a scan."""
        key = contrast, name
        if key not in self._usual:
            values = np.array([figure(one) for one in self.by_contrast[contrast]])
            self._usual[key] = float(np.median(values)), deviation_of(values)
        return self._usual[key]

    @cached_property
    def brightest(self) -> dict[str, list[float]]:
        """Contrast → how far the brightest voxels of its training scans reach, the two highest first."""
        found: dict[str, list[float]] = {}
        for scan in self.scans:
            if self.splits.get(scan.subject) == "train":
                found.setdefault(scan.contrast, []).append(_brightness(scan))
        return {contrast: sorted(values, reverse=True) for contrast, values in found.items()}

    @cached_property
    def with_skull(self) -> float:
        """Share of the scans that show more than a brain."""
        return sum(map(has_skull, self.scans)) / len(self.scans)

    @cached_property
    def by_digest(self) -> dict[str, list[ScanFacts]]:
        """Scans of equal voxels."""
        found: dict[str, list[ScanFacts]] = {}
        for scan in self.scans:
            found.setdefault(scan.digest, []).append(scan)
        return found


def empty(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Hardly any foreground."""
    return f"only {scan.foreground:.2%} of the voxels are foreground" if scan.foreground < threshold else None


def inside(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """The background lies in the middle of the intensities."""
    if scan.contrast == "CT" or scan.below_background <= threshold:
        return None
    return (
        f"its background is {scan.background:.4g} and {scan.below_background:.0%} of what is not background lies below "
        "it: background and dark tissue cannot be told apart"
    )


def ct_offset(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A CT without air."""
    if scan.contrast != "CT" or scan.minimum < threshold:
        return None
    return f"as CT it has nothing below {scan.minimum:.4g}, and air is −1000 HU: an offset (often 1024) is missing"


def ct_padding(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A CT with values below air."""
    if scan.contrast != "CT" or scan.minimum >= threshold:
        return None
    return f"values down to {scan.minimum:.4g}, below air: counted as air"


def like_ct(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """An MR scan that is a CT."""
    if scan.contrast == "CT" or scan.minimum > threshold or scan.median > -100 or scan.maximum < 500:
        return None
    return f"values from {scan.minimum:.4g} to {scan.maximum:.4g}, as a CT in Hounsfield units has them"


def signed(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Values below 0."""
    if scan.contrast == "CT" or scan.below_zero <= threshold:
        return None
    return f"{scan.below_zero:.0%} of the voxels are below 0: {scan.background:.4g} is taken for the background"


def mirrored(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """qform and sform of opposite hands."""
    return "its qform and sform are mirror images: left and right cannot be told" if scan.forms_mirrored else None


def sizes(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Voxel sizes that the header and the affine state differently."""
    if scan.forms_spacing <= threshold:
        return None
    times = f"{scan.forms_spacing:.3g} times"
    return f"the voxel sizes of its header and of its affine differ ({times}): one of the two is wrong"


def apart(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """qform and sform in different places."""
    if scan.forms_mirrored or scan.forms_mm <= threshold * min(scan.spacing):
        return None
    return f"its qform and sform lie {scan.forms_mm:.3g} mm apart: the sform is taken"


def sheared(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Axes that are not at right angles."""
    if scan.shear <= threshold:
        return None
    return f"its axes are {scan.shear:.2g}° off a right angle (a tilted gantry?), and are prepared as right ones"


def same_voxels(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """The voxels of another scan."""
    for twin in others.by_digest[scan.digest]:
        if twin is scan:
            continue
        if twin.subject == scan.subject:
            return f"its voxels are those of {twin.contrast} of the same subject"
        if person_of(twin.subject) != person_of(scan.subject):
            here, there = (others.splits.get(one.subject, "") for one in (scan, twin))
            where = f" ({here} and {there})" if here != there else ""
            return f"its voxels are those of {twin.subject} {twin.contrast}{where}"
    return None


def cut(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Foreground outside the prepared box."""
    cut = others.cuts.get((scan.subject, scan.contrast), 0.0)
    return f"the prepared box cuts off {cut:.1%} of its foreground" if cut > threshold else None


def hot(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A voxel far beyond the brightest tissue."""
    reach = scan.top - scan.background
    if reach <= 0 or (scan.maximum - scan.background) <= threshold * reach:
        return None
    return (
        f"its brightest voxel ({scan.maximum:.4g}) has {(scan.maximum - scan.background) / reach:.0f} times its "
        f"brightest tissue ({scan.top:.4g})"
    )


def saturated(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Foreground cut off at a highest value."""
    if scan.saturated <= threshold:
        return None
    return f"{scan.saturated:.1%} of the foreground has the highest value, {scan.maximum:.4g}: it was cut off there"


def one_scan(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A scan that alone would set its contrast's scale."""
    others_reach = others.brightest.get(scan.contrast, [])
    if others.splits.get(scan.subject) != "train" or len(others_reach) < 3:
        return None
    own, first, second = _brightness(scan), *others_reach[:2]
    if own < first or own <= threshold * second:
        return None
    return (
        f"alone it would set the scale of {scan.contrast}: its brightest voxel has {own / second:.1f} times the next "
        "scan's"
    )


def _brightness(scan: ScanFacts) -> float:
    middle = scan.quartiles[1] - scan.background
    return (scan.maximum - scan.background) / middle if middle > 0 else 0.0


def holes(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Exact background inside a brain."""
    if scan.holes_ml <= threshold or has_skull(scan):  # a head has cavities
        return None
    return f"{scan.holes_ml:.0f} ml of exact background lie inside the head in one piece: a hole in its mask?"


def shifted(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A scan that lies beside the subject's first one."""
    if max(map(abs, scan.shift)) < threshold:
        return None
    text = ", ".join(f"{voxels:+d}" for voxels in scan.shift)
    return f"it fits the subject's first contrast better when moved by {text} voxels (right, anterior, superior)"


def bites(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A mask that lacks a part."""
    if len(others.by_contrast[scan.contrast]) < LEAST_OTHERS:
        return None
    usual, deviation = others.usual_of(scan.contrast, "filling", lambda one: one.filling)
    if usual - scan.filling <= threshold * deviation:
        return None
    return f"it fills {scan.filling:.0%} of the box around it, others {usual:.0%}: is a part of it missing?"


def strange(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Little in common with the subject's first contrast."""
    if not scan.shared or len(others.by_contrast[scan.contrast]) < LEAST_OTHERS:
        return None
    usual, _ = others.usual_of(scan.contrast, "shared", lambda one: one.shared)
    if scan.shared > threshold * usual:
        return None
    return (
        f"it has little in common with the subject's first contrast ({scan.shared:.2g} nats, others {usual:.2g}): one "
        "of the two shows hardly any contrast, is another subject's, or lies elsewhere"
    )


def out_of_view(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A head that the image cuts off."""
    ends = (("left or right", 0, (0, -1)), ("front or back", 1, (0, -1)), ("top", 2, (-1,)))  # necks go on
    for name, axis, places in ends:
        profile = scan.profiles[axis]
        share = max(profile[place] for place in places) / max(*profile, 1)
        if share > threshold:
            return f"its head goes on beyond the image ({name}: the last plane shows {share:.0%} of the fullest)"
    return None


def looks_like(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """The intensities of another contrast."""
    known = [name for name, scans in others.by_contrast.items() if len(scans) >= LEAST_OTHERS]
    if scan.contrast not in known or len(known) < 2:
        return None
    away = {name: _distance(scan, others, name) for name in known}
    nearest = min(away, key=lambda name: away[name])
    if nearest == scan.contrast or away[scan.contrast] <= threshold * away[nearest]:
        return None
    return f"its intensities are distributed as those of {nearest} scans here, not as those of {scan.contrast}"


def _distance(scan: ScanFacts, others: Others, contrast: str) -> float:
    """Of a scan's distribution from the usual one of a contrast, in its deviations; at least 1."""
    away = []
    for place, own in enumerate(_shape(scan)):
        usual, deviation = others.usual_of(contrast, f"shape {place}", lambda one, place=place: _shape(one)[place])
        away.append(abs(own - usual) / deviation)
    return max(1.0, float(np.mean(away)))


def _shape(scan: ScanFacts) -> list[float]:
    """A distribution, whatever the gain: quartiles and brightest tissue beside the median, and where it leans."""
    low, middle, high = (value - scan.background for value in scan.quartiles)
    middle = max(middle, 1e-9)
    lean = (high + low - 2 * middle) / max(high - low, 1e-9)
    return [low / middle, high / middle, np.log(max(scan.top - scan.background, 1e-9) / middle), 1 + lean]


def slices(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Too few slices for figures of volumes."""
    if scan.shape[2] >= threshold:
        return None
    return f"{scan.shape[2]} axial slices: figures of volumes (SSIM, MS-SSIM under `default`) cannot be had of so few"


def spacing(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Other voxels than the contrast's other scans."""
    if len(others.by_contrast[scan.contrast]) < 3:
        return None
    usual = np.array([
        others.usual_of(scan.contrast, f"spacing {axis}", lambda one, axis=axis: one.spacing[axis])[0]
        for axis in range(3)
    ])  # fmt: skip
    ratio = float(np.max(np.maximum(np.asarray(scan.spacing) / usual, usual / np.asarray(scan.spacing))))
    if ratio <= threshold:
        return None
    own, others_are = ("×".join(f"{mm:.3g}" for mm in one) for one in (scan.spacing, usual))
    return f"voxels of {own} mm, {ratio:.1f} times off what the others have ({others_are} mm)"


def unlike(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Figures far from the contrast's other scans."""
    if len(others.by_contrast[scan.contrast]) < LEAST_OTHERS:
        return None
    for name, figure in FIGURES.items():
        usual, deviation = others.usual_of(scan.contrast, name, figure)
        if abs(figure(scan) - usual) > threshold * deviation:
            return f"{name}: {figure(scan):.3g}, where {scan.contrast} scans here have {usual:.3g}"
    return None


def with_skull(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """More than a brain, where tissue is segmented."""
    if not (others.tissue and scan.contrast != "CT" and scan.head_ml > threshold):
        return None
    return f"a foreground of {scan.head_ml:.0f} ml is no brain: skull and scalp would be taken for tissue"


def mixed(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A head among brains, or a brain among heads."""
    share = others.with_skull
    if has_skull(scan) and share <= threshold:
        return "it shows the skull, where most scans here are stripped of it"
    if not has_skull(scan) and 1 - share <= threshold:
        return "it is stripped of the skull, where most scans here show it"
    return None
