"""Anatomy of a synthetic head: fractions of tissues in each voxel, from a seed.

The brain is drawn in millimetres, in axes right, anterior, superior with the origin near the anterior commissure, and
sampled on any grid: one seed is one anatomy at every resolution. All surfaces are signed distances (negative inside);
a voxel's share of a structure is what a plane at that distance cuts off, so edges carry partial volume.

The cortex is folded as follows. Sulci are sheets that hang from the brain's surface: the zero set of a band-limited
random field that is constant along the surface's normal, which gives winding furrows at a regular spacing, as in the
patterns of buckling cortex. Fluid fills the sheets down to a depth that varies, and grey matter is what lies within
the cortical thickness of fluid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from scansynth.data.phantom_shapes import (
    BOX,
    Array,
    coverage,
    ellipsoid,
    grid_axes,
    slab_coverage,
    smooth_field,
    smooth_min,
    stream,
    tube,
)

TISSUES = (
    "air", "fluid", "grey", "white", "striatum", "thalamus", "pallidum", "choroid", "vessel",
    "bone", "marrow", "fat", "muscle", "necrosis", "rim", "oedema",
)  # fmt: skip
"""Names of the tissues, in the order of the fractions' first axis."""


@dataclass(frozen=True)
class Anatomy:
    """Fractions of tissues on a grid."""

    fractions: Array
    """(N, X, Y, Z) float32, in [0, 1], summing to 1 over `TISSUES`."""
    axes: tuple[Array, Array, Array]
    """Millimetres of the grid's points along right, anterior and superior: (X,), (Y,), (Z,) float32."""


def _furrows(seed: int, name: str, points: Sequence[Array], wavelength: float) -> Array:
    """Band-limited random field of about unit variance at points (mm, (n,) each): (n,) float32."""
    step = 4.0
    n = int(2 * BOX / step)
    frequency = np.fft.fftfreq(n, step)
    radius = np.sqrt(
        frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + np.fft.rfftfreq(n, step) ** 2, dtype=np.float32
    )
    band = np.exp(-0.5 * ((radius * wavelength - 1) / 0.18) ** 2)
    noise = stream(seed, name).standard_normal((n, n, n), dtype=np.float32)
    field = np.fft.irfftn(np.fft.rfftn(noise) * band, s=(n, n, n), axes=(0, 1, 2))
    field = (field / field.std()).astype(np.float32)
    places = np.stack([(p + BOX) / step for p in points])
    return ndimage.map_coordinates(field, places, order=3, mode="nearest")


def _tumour_site(seed: int) -> tuple[tuple[float, float, float], float]:
    """Centre (mm, as in the atlas) and radius (mm) of a subject's tumour, in the white matter of one hemisphere."""
    rng = stream(seed, "tumour")
    side = rng.choice([-1.0, 1.0])
    centre = (side * rng.uniform(26, 38), rng.uniform(-60, 36), rng.uniform(16, 42))
    return centre, rng.uniform(10, 17)


def _warped_points(
    seed: int, axes: Sequence[Array], tumour: tuple[Sequence[float], float] | None
) -> tuple[Array, Array, Array]:
    """Where in the atlas each voxel lies, mm: the subject's size, shape and the push of a tumour."""
    rng = stream(seed, "shape")
    size = rng.normal(0.945, 0.02)
    stretch = size * (1 + rng.normal(0, 0.025, 3))
    tilt = rng.normal(0, 0.03, 3)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    if tumour is not None:
        (cx, cy, cz), radius = tumour
        dx, dy, dz = x - cx, y - cy, z - cz
        push = 0.35 * np.exp(-(dx * dx + dy * dy + dz * dz) / (2 * (1.5 * radius) ** 2)).astype(np.float32)
        x, y, z = x - push * dx, y - push * dy, z - push * dz
    x, y, z = x + tilt[0] * y + tilt[1] * z, y - tilt[0] * x + tilt[2] * z, z - tilt[1] * x - tilt[2] * y
    points = []
    for p, factor in zip((x, y, z), stretch, strict=True):
        warp = 2.2 * smooth_field(rng, axes, 45.0) + 0.7 * smooth_field(rng, axes, 18.0)
        points.append((p / factor + warp).astype(np.float32))
    return points[0], points[1], points[2]


@dataclass
class _Canvas:
    """Fractions that are painted over one another, so that they always sum to 1."""

    fractions: Array

    def paint(self, tissue: str, share: Array, over: Sequence[str] = TISSUES) -> None:
        """Let `tissue` take `share` of what the tissues `over` have in each voxel, (X, Y, Z)."""
        extent = ndimage.find_objects((share > 0).astype(np.uint8))
        if not extent:
            return
        fractions, share = self.fractions[:, *extent[0]], share[extent[0]]
        taken = np.zeros_like(share)
        for name in over:
            old = fractions[TISSUES.index(name)]
            part = old * share
            old -= part
            taken += part
        fractions[TISSUES.index(tissue)] += taken


def _cerebrum(p: Sequence[Array]) -> Array:
    """Signed distance to the cerebrum without its folds; p[0] is the distance from the midline."""
    x, y, z = p
    lobes = smooth_min(ellipsoid(p, (16, 20, 22), (43, 50, 46)), ellipsoid(p, (18, -32, 26), (49, 58, 49)), blend=20)
    lobes = smooth_min(lobes, ellipsoid(p, (17, -64, 12), (36, 42, 36)), blend=12)
    # Below: the floor of the frontal lobe, and behind it the tentorium, which falls away to the back and the sides.
    step = np.clip((-28 - y) / 14, 0, 1)
    floor = (1 - step) * (-17 - 0.1 * x) + step * (-5 - 0.22 * np.maximum(-42 - y, 0) - 0.15 * x)
    lobes = -smooth_min(-lobes, z - floor, blend=6)
    temporal = tube(p, (37, 12, -29, 15), (47, -14, -20, 19), (46, -46, -8, 20))
    medial = tube(p, (24, -2, -22, 9), (23, -18, -19, 8), (22, -38, -8, 9))  # parahippocampal gyrus
    return smooth_min(smooth_min(lobes, temporal, blend=5), medial, blend=5)


def _corpus_callosum(p: Sequence[Array]) -> tuple[Array, Array]:
    """Signed distances to the arch under the interhemispheric fissure, outer and inner face, mm."""
    flat = (np.zeros_like(p[0]), p[1], p[2])
    outer = ellipsoid(flat, (0, -5, 0), (1e3, 39, 30))
    return outer, ellipsoid(flat, (0, -5, -3), (1e3, 32, 26))


def _sulci(
    seed: int, p: Sequence[Array], signed_x: Array, *, hull: Array, axes: Sequence[Array], gap: float
) -> tuple[Array, Array]:
    """The folds of the cortex.

    Args:
        seed: of the subject.
        p: distance from the midline and atlas y and z, mm.
        signed_x: atlas x, mm.
        hull: signed distance to the cerebrum without folds, mm.
        axes: of the grid, mm.
        gap: width of a sulcus, mm.

    Returns:
        share of fluid in each voxel of the cerebrum; and distance from the pial surface into the tissue, mm.
    """
    x, y, z = p
    spacing = float(axes[0][1] - axes[0][0])
    arch = _corpus_callosum(p)[0]
    fissure = np.hypot(x, np.maximum(-arch, 0))
    # A smooth minimum of the depths under the outer surface and under the fissure: its gradient, the surface's normal,
    # turns gradually where the two meet.
    blend = 4.0
    depth = (-blend * np.logaddexp(hull / blend, -fissure / blend)).astype(np.float32)
    near = (depth > -8) & (depth < 26)
    normal = np.gradient(depth, spacing)
    length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + 1e-3
    # The field is read at the foot of each point on the surface, so that the sheets hang along the normal; a little of
    # the depth stays in, so that they lean and wind.
    rng = stream(seed, "sulci")
    shift = 0.8 * depth / length
    foot = [
        (q - shift * n + 1.6 * smooth_field(rng, axes, 13.0))[near]
        for q, n in zip((signed_x, y, z), normal, strict=True)
    ]
    reach = 17 + 3 * np.clip(smooth_field(rng, axes, 26.0), -2, 2)
    # On the medial face furrows are shallow, but for the cingulate sulcus, which runs around the corpus callosum.
    lateral = np.clip(0.5 + (fissure + hull) / 10, 0, 1)
    reach *= 0.15 + 0.85 * lateral
    arch = _corpus_callosum(p)[0]
    cingulate = np.sqrt(0.7 * (arch - 9 - 0.65 * x) ** 2 + np.maximum(x - 10, 0) ** 2 + np.maximum(-5 - z, 0) ** 2)
    pial, fluid = depth.copy(), np.zeros_like(depth)
    for name, wavelength, share in (("primary", rng.uniform(22, 26), 1.0), ("secondary", rng.uniform(14, 17), 0.4)):
        field = np.full(depth.shape, 3, np.float32)
        field[near] = _furrows(seed, name, foot, wavelength)
        slope = np.gradient(field, spacing)
        sheet = np.abs(field) / np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2 + (0.6 / wavelength) ** 2)
        sheet = np.hypot(sheet, np.maximum(depth - share * reach, 0))
        half = gap / 2 * share + 0.10 * lateral * np.clip(5 * share - depth, 0, 4)  # furrows open towards the surface
        pial = np.minimum(pial, sheet - half)
        fluid = np.maximum(fluid, slab_coverage(sheet, half, spacing))
    # The Sylvian fissure above the temporal lobe, and the plate of fluid over the insula at its inner end.
    height = 0.93 * (z + 1 + 0.28 * (y - 5) + 0.3 * (x - 48))
    sylvian = np.sqrt(height**2 + np.maximum(38 - x, 0) ** 2 + np.maximum(np.abs(y + 4) - 34, 0) ** 2)
    insula = np.sqrt(
        (x - 39 + 0.008 * y * y) ** 2 + np.maximum(np.abs(height) - 10, 0) ** 2 + np.maximum(np.abs(y - 1) - 21, 0) ** 2
    )
    for sheet, half in (
        (fissure, 0.7 + gap / 3),
        (cingulate, gap / 3),
        (sylvian, 0.5 + gap / 3),
        (insula, 0.5 + gap / 3),
    ):
        pial = np.minimum(pial, sheet - half)
        fluid = np.maximum(fluid, slab_coverage(sheet, half, spacing))
    return fluid, pial


def _cerebellum(seed: int, p: Sequence[Array], signed_x: Array, spacing: float) -> tuple[Array, Array, Array]:
    """Signed distance to the cerebellum; share of fluid between its folia; distance from the pial surface, mm."""
    _, y, z = p
    hull = smooth_min(
        ellipsoid(p, (24, -62, -33), (29, 27, 22), turn=-15), ellipsoid(p, (0, -60, -29), (13, 24, 21)), blend=5
    )
    # Folia fan out from the fourth ventricle in every sagittal plane.
    distance = np.hypot(y + 46, z + 34)
    turns = np.arctan2(z + 34, -(y + 46)) / (2 * np.pi) + 0.0025 * np.sin(
        signed_x / 9 + stream(seed, "folia").uniform(0, 6)
    )
    count = 42
    sheet = np.abs((turns * count) % 1 - 0.5) * (2 * np.pi / count) * distance
    reach = 12 + 4 * np.cos(2 * np.pi * turns * count / 6)  # lobules: every sixth fissure is deep
    sheet = np.hypot(sheet, np.maximum(-hull - reach, 0) + np.maximum(10 - distance, 0))
    return hull, slab_coverage(sheet, 0.4, spacing), np.minimum(-hull, sheet - 0.4)


def anatomy(seed: int, shape: Sequence[int], spacing: float, *, tumour: bool, skull: bool) -> Anatomy:
    """Draw a subject.

    Args:
        seed: of the subject; the same seed with and without tumour or skull is the same brain.
        shape: of the grid, (X, Y, Z).
        spacing: of the grid, mm, the same along each axis.
        tumour: put a glioma-like tumour into one hemisphere.
        skull: keep what surrounds the brain; otherwise it is air, as after skull stripping.

    Returns:
        Fractions of `TISSUES` on the grid.
    """
    axes = grid_axes(shape, spacing)
    site = _tumour_site(seed) if tumour else None
    signed_x, y, z = _warped_points(seed, axes, site)
    x = np.abs(signed_x)
    p = (x, y, z)
    rng = stream(seed, "anatomy")
    age = rng.uniform(0, 1)
    gap = 1.0 + 0.9 * age  # sulci widen with age, and the ventricles with them
    swell = rng.normal(-0.8 + 2.0 * age, 0.5)
    thickness = 2.7 - 0.3 * age + 0.25 * np.clip(smooth_field(rng, axes, 25.0), -2, 2)

    cerebrum = _cerebrum(p)
    cerebellum, folia, cerebellar_depth = _cerebellum(seed, p, signed_x, spacing)
    stem = tube(p, (0, -20, -6, 13), (0, -25, -17, 12), (0, -26, -31, 15.5), (0, -33, -46, 9), (0, -38, -66, 6.5))
    # Blended widely, the parts' union bridges fissures and cisterns: the inside of the dura.
    brain = smooth_min(smooth_min(cerebrum, cerebellum, blend=10), stem, blend=16) - 0.8

    # The skull bridges more: it has no dent at the side, between frontal and temporal lobe.
    dura = smooth_min(smooth_min(cerebrum, ellipsoid(p, (20, -10, 8), (46, 72, 40)), blend=10), brain, blend=8) - 2

    canvas = _Canvas(np.zeros((len(TISSUES), *shape), np.float32))
    canvas.fractions[0] = 1
    if skull:
        _paint_head(canvas, p, dura, spacing)
    canvas.paint("fluid", coverage(dura if skull else brain, spacing))

    inside = coverage(cerebellum, spacing)
    canvas.paint("grey", inside)
    canvas.paint("white", inside * coverage(1.5 - cerebellar_depth, spacing))
    canvas.paint("fluid", inside * folia, over=("grey", "white"))
    canvas.paint("white", coverage(ellipsoid(p, (17, -56, -32), (11, 8, 4), turn=-20), spacing), over=("grey", "fluid"))

    inside = coverage(cerebrum, spacing)
    fluid, pial = _sulci(seed, p, signed_x, hull=cerebrum, axes=axes, gap=gap)
    outer, inner = _corpus_callosum(p)
    canvas.paint("grey", inside)
    canvas.paint("white", inside * coverage(thickness - pial, spacing))
    canvas.paint("fluid", inside * fluid)
    _paint_depths(
        canvas,
        p,
        np.maximum(np.maximum(outer, -inner), np.maximum(x - 12, 1 - z)),
        stem=stem,
        swell=swell,
        spacing=spacing,
    )
    if site is not None:
        _paint_tumour(canvas, seed, axes, site, spacing)
    if not skull:
        canvas.paint("air", coverage(-brain, spacing))
    return Anatomy(canvas.fractions, axes)


def _paint_depths(
    canvas: _Canvas, p: Sequence[Array], callosum: Array, *, stem: Array, swell: float, spacing: float
) -> None:
    """Brain stem, corpus callosum, deep grey matter, hippocampus, ventricles, cisterns and vessels."""
    x = p[0]

    def paint(tissue: str, distance: Array, over: Sequence[str] = TISSUES) -> None:
        canvas.paint(tissue, coverage(distance, spacing), over)

    paint("white", stem)
    paint("white", callosum)
    paint("white", ellipsoid(p, (0, -6, 6), (22, 36, 17)), over=("grey",))
    paint("thalamus", ellipsoid(p, (10.5, -19, 7), (7.5, 14.5, 9), turn=-25))
    paint("thalamus", ellipsoid(p, (5, -8, -6), (4.5, 8, 8)))  # hypothalamus
    paint("striatum", ellipsoid(p, (25, 3, 1), (5, 16, 10), turn=-16))
    paint("pallidum", ellipsoid(p, (19.5, -4, -1), (3.6, 9, 6.5), turn=-22))
    paint("striatum", tube(p, (11.5, 21, -1, 5), (13, 17, 6, 6.5), (15, 2, 17, 4), (20, -20, 21, 2.6)))
    paint("grey", tube(p, (23, -3, -20, 6.5), (27, -14, -18, 5), (25, -34, -7, 4)))  # amygdala, hippocampus

    horns = tube(p, (9, 31, 2, 2.2), (6.5, 20, 9, 4.2), (6.5, 4, 16, 4.6), (9, -18, 20, 4.6), (20, -37, 14, 5.8))
    horns = np.minimum(horns, tube(p, (22, -40, 12, 6), (24, -56, 8, 3.4), (21, -70, 6, 1.5)))
    horns = np.minimum(horns, tube(p, (23, -40, 10, 4.5), (33, -29, -8, 2.6), (33, -10, -16, 2.2)))
    paint("fluid", np.maximum(horns - swell, 0.8 - x))  # the septum pellucidum keeps the sides apart
    paint("choroid", tube(p, (17, -30, 14, 1.4), (22, -40, 10, 2.6)))
    paint("fluid", ellipsoid(p, (0, -12, 0), (2 + 0.6 * swell, 14, 9)))
    paint("fluid", tube(p, (0, -25, -4, 1), (0, -34, -16, 1), (0, -42, -30, 3.5), (0, -46, -42, 2)))
    paint("fluid", ellipsoid(p, (0, 6, -15), (10, 8, 6)))  # suprasellar cistern
    paint("fluid", ellipsoid(p, (0, -39, -6), (11, 5, 7)))  # quadrigeminal cistern

    paint("vessel", tube(p, (0, -34, 9, 1.2), (0, -44, 7, 1.8), (0, -70, -2, 1.8)), over=("fluid", "white", "grey"))
    paint("vessel", tube(p, (0, -12, -44, 1.6), (0, -9, -18, 1.6)))  # basilar artery
    paint("vessel", tube(p, (5, 6, -14, 1.6), (20, 5, -13, 1.4), (38, 5, -2, 1.3)))  # middle cerebral artery


def _paint_head(canvas: _Canvas, p: Sequence[Array], dura: Array, spacing: float) -> None:
    """Scalp, face, skull with marrow, eyes and the sagittal sinus, around the dura."""
    x, _, z = p
    face = smooth_min(ellipsoid(p, (0, 22, -52), (58, 62, 62)), ellipsoid(p, (0, -35, -90), (56, 56, 70)), blend=20)
    skin = smooth_min(dura - 12.5, face, blend=20)
    for tissue, distance in (
        ("muscle", skin),
        ("fat", skin + 1.5),
        ("muscle", skin + 5.5),
        ("air", np.minimum(ellipsoid(p, (0, 50, -38), (11, 30, 14)), tube(p, (0, 18, -50, 7), (0, 5, -110, 8)))),
        ("bone", dura - 6.8),
        ("marrow", dura - 5.2),
        ("bone", dura - 2),
        ("fat", ellipsoid(p, (32, 52, -26), (19, 24, 17))),
        ("fluid", ellipsoid(p, (33, 60, -26), (12, 12, 12))),
        ("bone", dura - 2),
    ):
        canvas.paint(tissue, coverage(distance, spacing))
    sinus = np.maximum(np.hypot(x, dura) - 3.2, -8 - z)
    canvas.paint("vessel", coverage(sinus, spacing))


def _paint_tumour(
    canvas: _Canvas, seed: int, axes: Sequence[Array], site: tuple[Sequence[float], float], spacing: float
) -> None:
    """A necrotic core in an enhancing rim, and oedema that spreads through the white matter."""
    rng = stream(seed, "tumour tissue")
    centre, radius = site
    points = np.meshgrid(*axes, indexing="ij")
    rough = 0.16 * radius * smooth_field(rng, axes, 9.0) + 0.1 * radius * smooth_field(rng, axes, 20.0)
    sphere = ellipsoid(points, centre, radius * rng.uniform(0.85, 1.2, 3))
    mass = sphere + rough
    tissue = tuple(name for name in TISSUES if name not in ("air", "bone", "marrow", "fat", "muscle"))
    spread = sphere - rng.uniform(7, 14) + 4 * smooth_field(rng, axes, 12.0)
    canvas.paint("oedema", np.clip(0.5 - spread / 5, 0, 1), over=("white",))
    canvas.paint("rim", coverage(mass, spacing), over=tissue)
    wall = rng.uniform(2.5, 4.5) + 1.2 * smooth_field(rng, axes, 7.0)
    canvas.paint("necrosis", coverage(mass + np.maximum(wall, 1), spacing), over=("rim",))
