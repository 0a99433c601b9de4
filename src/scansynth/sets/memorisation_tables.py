"""What the search for memorised volumes found, as tables and pictures."""

import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.errors import InputError
from scansynth.evaluation.tables import csv_text
from scansynth.files import write_text
from scansynth.metrics.montage import BANNER, write_png
from scansynth.sets.features import FeatureExtractor, volume_features
from scansynth.sets.memorisation import (
    ALARMING,
    CLEAR,
    COPY,
    MEANING,
    Memorisation,
    Nearest,
    aligned,
    centred,
)
from scansynth.sets.registration import standardised
from scansynth.sets.set_pictures import pair_rows
from scansynth.sets.thresholds import FEWEST, Threshold
from scansynth.sets.volume_sets import VolumeSet

MOST = 200
"""Volumes that the embedding shows (cDPM, Fig. 5)."""


def write_memorisation(found: Memorisation, folder: Path) -> None:
    """Write `memorisation.md`, `memorisation.csv` (a line a volume, generated and held-out) and `memorisation.json`."""
    records = _records(found)
    write_text(folder / "memorisation.csv", csv_text(records))
    content = {
        "label": found.label,
        "training": found.training,
        "n_training": found.training_volumes,
        "n_generated": len(found.generated),
        "n_held_out": len(found.held_out),
        "held_out_that_are_copies": [one.name for one in found.twins],
        "copy_at_most": COPY,
        "clear_at_most": CLEAR,
        "threshold_unexplained": _threshold(found.near),
        "threshold_unexplained_by_two": _threshold(found.near_two),
        **{f"n_{grade}": len(found.graded(grade)) for grade in MEANING},
        "verdict": found.verdict(),
        "volumes": records,
    }
    write_text(folder / "memorisation.json", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "memorisation.md", _markdown(found))


def _threshold(one: Threshold | None) -> dict[str, object] | None:
    return one and {
        "value": one.value,
        "rule": "rank" if one.by_rank else "log-normal prediction bound",
        "rank": one.rank,
        "n_held_out": one.held_out,
        "false_alarm_rate_aimed": one.aimed,
        "false_alarm_rate_expected_at_most": one.expected_rate,
        "false_alarm_rate_bound_95": one.bounded_rate,
    }


def _records(found: Memorisation) -> list[dict[str, object]]:
    return [
        {
            "set": label,
            "volume": one.name,
            "grade": found.grade(one) if volumes is found.generated else "",
            "nearest": one.match.name,
            "mirrored": one.match.mirrored,
            "unexplained": one.match.unexplained,
            "unexplained_by_others": one.others,
            "pair": one.blend.called if one.blend else "",
            "unexplained_by_two": one.by_two,
            "unexplained_by_other_pairs": one.other_pairs,
        }
        for label, volumes in ((found.label, found.generated), ("real, held out", found.held_out))
        for one in volumes
    ]


def _markdown(found: Memorisation, most: int = 20) -> str:
    ordered = closest(found, most)
    lines = [
        found.verdict(),
        "",
        "| synthetic | verdict | nearest training volume | unexplained (%) | by the nearest two (%) | by others (%) |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for one in ordered:
        grade, name = found.grade(one), shown(found, one)
        alarm = "**" * (grade in ALARMING)
        lines.append(
            f"| {one.name} | {alarm}{MEANING[grade]}{alarm} | {name} | {100 * one.match.unexplained:.1f} "
            f"| {100 * one.by_two:.1f} | {100 * one.others:.1f} |"
        )
    lines += [
        "",
        f"The {len(ordered)} of {len(found.generated)} that are nearest, beside {found.training_volumes} training "
        f"volumes ({found.training}).",
        "",
        *(f"- {note}" for note in notes(found)),
    ]
    return "\n".join(lines) + "\n"


def notes(found: Memorisation) -> tuple[str, ...]:
    """What the figures mean, in sentences."""
    told = (
        "Unexplained: the share of a volume's local detail that a training volume, brought onto it (mirror image, "
        "translation, affine map), leaves open; brightness, gamma, bias fields, some noise and blur do not count. By "
        "others: the median of the other training volumes that were compared.",
        f"Copy: at most {100 * COPY:g} % is unexplained, and at most {100 * CLEAR:g} % of what is in any held-out "
        f"person (with fewer than {FEWEST} of them, also of what others leave). Blend: the same of two training "
        "volumes together, and at most half of what the nearest alone leaves.",
        "A volume that no training volume is near may still repeat parts of one.",
    )
    if found.near and found.near_two:
        near = (
            f"Closer than held-out people are: below {100 * found.near.value:.1f} % by one, or "
            f"{100 * found.near_two.value:.1f} % by two; each is closer {found.near.text()}.",
        )
    else:
        near = (f"{len(found.held_out)} held-out people are too few to say how near a new person would be.",)
    return (*told, *near)


def shown(found: Memorisation, one: Nearest) -> str:
    """The training volume, or the two of a blend, that a volume is nearest to."""
    return one.blend.called if one.blend and found.grade(one) == "blend" else one.match.called


def closest(found: Memorisation, count: int) -> list[Nearest]:
    """The generated volumes that are nearest to training volumes: copies, blends, then the rest, by distance."""
    order = list(MEANING)
    return sorted(found.generated, key=lambda one: (order.index(found.grade(one)), one.match.unexplained))[:count]


def plot_pairs(found: Memorisation, generated: VolumeSet, training: VolumeSet, folder: Path, *, count: int = 4) -> Path:
    """Write `memorisation.png`: the closest pairs, central slices axial, coronal, sagittal.

    Two rows a pair: the synthetic volume, and the training volume brought onto it; intensities as they were compared.

    Args:
        found: of these sets.
        generated: the set.
        training: the training volumes.
        folder: where to.
        count: pairs.
    """
    rows = {}
    for place, one in enumerate(closest(found, count), 1):
        match = one.match
        image = generated.read(generated.names.index(one.name))
        rows[f"{place} synthetic {one.name}"] = standardised(image, found.target)
        rows[f"{place} real {match.name} ({100 * match.unexplained:.1f} % open)"] = aligned(
            training, match, found.target
        )
    path = folder / "memorisation.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_png(path, pair_rows(rows, generated.spacing), f"{found.label}: nearest training volumes")
    return path


def embedding_vectors(
    found: Memorisation, generated: VolumeSet, training: VolumeSet, extractor: FeatureExtractor, *, most: int = MOST
) -> tuple[np.ndarray, np.ndarray]:
    """Features of generated volumes and of their nearest training volumes, (N, 3F) both.

    Each volume as it is, but for histogram and centre; real ones mirrored where their match is.
    """
    vectors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index, one in enumerate(found.generated[:most]):
        match = one.match
        real = standardised(training.read(training.names.index(match.name)), found.target)
        image = standardised(generated.read(index), found.target)
        for kept, volume in zip(vectors, (image, real[::-1] if match.mirrored else real), strict=True):
            kept.append(volume_features(centred(volume), extractor))
    return np.stack(vectors[0]), np.stack(vectors[1])


def embed(synthetic: np.ndarray, real: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, Journal of Machine Learning Research 9, 2008) of both together.

    Args:
        synthetic: (N, D).
        real: (M, D).
        seed: of the embedding.

    Returns:
        (N + M, 2), the synthetic ones first.

    Raises:
        InputError: without scikit-learn, for fewer than 4 vectors, or if all are equal.
    """
    try:
        from sklearn.manifold import TSNE  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("t-SNE needs scikit-learn: pip install 'scansynth[generate]'") from error
    vectors = np.concatenate([synthetic, real])
    if len(vectors) < 4:
        raise InputError(f"{len(vectors)} vectors: t-SNE shows neighbourhoods, give two pairs or more")
    if not np.ptp(vectors, axis=0).any():
        raise InputError("all volumes, synthetic and real, have the same features: there are no neighbourhoods to show")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    # Exact: the default's tree of points can crash where points lie on each other, as copies do.
    model = TSNE(2, perplexity=perplexity, init="pca", method="exact", random_state=seed)
    return np.asarray(model.fit_transform(vectors / vectors.std()), dtype=np.float64)


def plot_embedding(synthetic: np.ndarray, real: np.ndarray, folder: Path, note: str, *, seed: int = 0) -> Path:
    """Write `embedding.png`: t-SNE of generated volumes and their nearest real ones (cDPM, Fig. 5).

    A line joins each pair. Points that lie on each other are near copies; two clouds apart are a set unlike the real
    one.

    Args:
        synthetic: features, (N, D).
        real: of each one's nearest real volume, (N, D).
        folder: where to.
        note: what was embedded, for the title.
        seed: of the embedding.

    Raises:
        InputError: without scikit-learn, for fewer than two pairs, or if all vectors are equal.
    """
    places = embed(synthetic, real, seed)
    first, second = places[: len(synthetic)], places[len(synthetic) :]
    figure = Figure(figsize=(6, 6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for a, b in zip(first, second, strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color="grey", linewidth=0.5, zorder=1)
    axes.scatter(first[:, 0], first[:, 1], s=16, marker="o", color="tab:blue", label=f"synthetic ({len(first)})")
    axes.scatter(second[:, 0], second[:, 1], s=16, marker="s", color="tab:orange", label="their nearest real volumes")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8)
    axes.set_title(f"t-SNE of {note}, seed {seed}", fontsize=9)
    figure.supxlabel(BANNER, fontsize=9)
    canvas.draw()
    path = folder / "embedding.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_png(path, np.asarray(canvas.buffer_rgba())[:, :, :3].copy(), "embedding")
    return path
