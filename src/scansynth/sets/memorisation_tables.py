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
from scansynth.sets.memorisation import Match, Memorisation, Nearest, Threshold, aligned, centred
from scansynth.sets.registration import standardised
from scansynth.sets.set_pictures import pair_rows
from scansynth.sets.set_similarity import WINDOW
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
        "extractor": found.extractor,
        "ms_ssim_scales": found.scales,
        "threshold_ms_ssim_distance": _threshold(found.similarity),
        "threshold_feature_distance": _threshold(found.features),
        "near_by_ms_ssim": [one.name for one in found.near_by_similarity],
        "near_by_features": [one.name for one in found.near_by_features],
        "verdict": found.verdict(),
        "volumes": records,
    }
    write_text(folder / "memorisation.json", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "memorisation.md", _markdown(found))


def _threshold(one: Threshold) -> dict[str, object]:
    return {
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
            "nearest_by_ms_ssim": one.by_similarity.name,
            "mirrored": one.by_similarity.mirrored,
            "ms_ssim_percent": one.by_similarity.ms_ssim,
            "threshold_ms_ssim_percent": 100 - found.similarity.value,
            "near_by_ms_ssim": one.by_similarity.distance < found.similarity.value,
            "nearest_by_features": one.by_features.name,
            f"feature_distance_{found.extractor}": one.by_features.feature_distance,
            "threshold_feature_distance": found.features.value,
            "near_by_features": one.by_features.feature_distance < found.features.value,
        }
        for label, volumes in ((found.label, found.generated), ("real, held out", found.held_out))
        for one in volumes
    ]


def _markdown(found: Memorisation, most: int = 20) -> str:
    ordered = closest(found, most)
    lines = [
        found.verdict(),
        "",
        f"| synthetic | nearest by MS-SSIM | MS-SSIM (%; {found.scales} scales, window {WINDOW}) | nearest by features "
        f"| distance ({found.extractor}) |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for one in ordered:
        near = [
            _called(one.by_similarity, near=one.by_similarity.distance < found.similarity.value),
            _called(one.by_features, near=one.by_features.feature_distance < found.features.value),
        ]
        lines.append(
            f"| {one.name} | {near[0]} | {one.by_similarity.ms_ssim:.2f} | {near[1]} "
            f"| {one.by_features.feature_distance:.2f} |"
        )
    lines += [
        "",
        f"The {len(ordered)} of {len(found.generated)} that are nearest, beside {found.training_volumes} training "
        f"volumes ({found.training}). **Bold**: nearer than the threshold, {100 - found.similarity.value:.2f} % "
        f"MS-SSIM and distance {found.features.value:.2f}.",
        "",
        "- Volumes were brought to one histogram and onto each other (mirror image, translation, then an affine map). "
        "MS-SSIM is taken inside the synthetic volume's foreground, features from the three central slices.",
        f"- Thresholds: nearer {found.similarity.text()}.",
        "- A volume that no training volume is near may still repeat parts of one, and persons who were scanned twice "
        "hide copies if one scan is held out.",
    ]
    return "\n".join(lines) + "\n"


def _called(match: Match, *, near: bool) -> str:
    name = f"{match.name}, mirrored" if match.mirrored else match.name
    return f"**{name}**" if near else name


def closest(found: Memorisation, count: int) -> list[Nearest]:
    """The generated volumes that are nearest to a training volume by MS-SSIM, nearest first."""
    return sorted(found.generated, key=lambda one: one.by_similarity.distance)[:count]


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
        match = one.by_similarity
        image = generated.read(generated.names.index(one.name))
        rows[f"{place} synthetic {one.name}"] = standardised(image, found.target)
        rows[f"{place} real {match.name} ({match.ms_ssim:.1f} %)"] = aligned(training, match, found.target)
    path = folder / "memorisation.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_png(path, pair_rows(rows, generated.spacing), f"{found.label}: nearest training volumes")
    return path


def embedding_vectors(
    found: Memorisation, generated: VolumeSet, training: VolumeSet, extractor: FeatureExtractor, *, most: int = MOST
) -> tuple[np.ndarray, np.ndarray]:
    """Features of generated volumes and of their nearest training volumes by MS-SSIM, (N, 3F) both.

    Each volume as it is, but for histogram and centre; real ones mirrored where their match is.
    """
    vectors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index, one in enumerate(found.generated[:most]):
        match = one.by_similarity
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
