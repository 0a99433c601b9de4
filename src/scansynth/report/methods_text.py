"""Paragraphs for a paper's methods section, with what they cite: how images were made, how a run was trained.

They say what sidecars and the run's folder say and nothing else; what these cannot know stands in square brackets, to
be filled in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import scansynth
from scansynth.data.raw.settings import PROGRAM, ROUGH
from scansynth.methods import METHODS
from scansynth.synthesis.card import people_of
from scansynth.synthesis.run import Run
from scansynth.training.run_folder import named_weights

PYTORCH = "Paszke et al., PyTorch: an imperative style, high-performance deep learning library, NeurIPS 2019"
REGISTRATION = "Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE Transactions on Medical Imaging 22(1), 2003"  # noqa: E501
SIMPLE_ITK = "Lowekamp et al., The design of SimpleITK, Frontiers in Neuroinformatics 7:45, 2013"
N4 = "Tustison et al., N4ITK: improved N3 bias correction, IEEE Transactions on Medical Imaging 29(6), 2010"
DCM2NIIX = "Li et al., The first step for neuroimaging data analysis: DICOM to NIfTI conversion, Journal of Neuroscience Methods 264, 2016"  # noqa: E501
BIDS = "Gorgolewski et al., The brain imaging data structure, Scientific Data 3:160044, 2016"
CONFORMAL = "Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, Springer, 2005"
SOLVERS = {
    "ddim": "Song, Meng & Ermon, Denoising diffusion implicit models, ICLR 2021",
    "dpm-solver": "Lu et al., DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models, 2022",
}
TO_FILL = "[describe the training cohort, and the figures on held-out subjects]"


@dataclass(frozen=True)
class MethodsText:
    """The paragraph and what it cites, in the order of its numbers."""

    paragraph: str
    references: tuple[str, ...]


def methods_text(images: Sequence[Mapping[str, Any]], *, layout: str = "") -> MethodsText:
    """Describe how images were made.

    Args:
        images: their sidecars.
        layout: of the data they were made of (`Listing.layout`).
    """
    cited: list[str] = []

    def cite(reference: str) -> str:
        if reference not in cited:
            cited.append(reference)
        return f"[{cited.index(reference) + 1}]"

    sentences = []
    for told in _of_each_way(images):
        sources = " and ".join(told["sources"])
        method, weights = METHODS.get(told["method"]), told.get("weights", {})
        version = told.get("versions", {})
        sentences.append(
            f"Synthetic {told['target']} images were made from {sources} by scansynth {version.get('scansynth', '')} "
            f"(method {told['method']}{': ' + method.description if method else ''} "
            f"{cite(method.citation) if method else ''}; PyTorch {version.get('torch', '')} {cite(PYTORCH)}; weights "
            f"SHA-256 {str(weights.get('sha256', ''))[:12]}…, training step {weights.get('training_step', '?')})."
        )
        sentences.append(_drawn(told, cite))
    for how in _distinct([told["brought_together"] for told in images if "brought_together" in told]):
        sentences += _brought(how, cite)
    if layout == "DICOM":
        sentences.append(f"DICOM was converted by dcm2niix {cite(DCM2NIIX)}.")
    if layout == "BIDS":
        sentences.append(f"Data and results follow the Brain Imaging Data Structure {cite(BIDS)}.")
    accepted = sorted({rule for told in images for rule in told.get("accepted", ())})
    if accepted:
        sentences.append(f"Of the checks on the sources these were overruled: {', '.join(accepted)}.")
    sentences.append(f"The model was trained on {TO_FILL}. Synthetic images are marked as such and are no scans.")
    return MethodsText(" ".join(sentence for sentence in sentences if sentence), tuple(cited))


def run_text(run: Run) -> MethodsText:
    """Describe how a run was trained."""
    cited: list[str] = []

    def cite(reference: str) -> str:
        if reference not in cited:
            cited.append(reference)
        return f"[{cited.index(reference) + 1}]"

    config, record = run.config, run.record
    method, people = METHODS[config.method], people_of(record.splits)
    held = " and ".join(f"{people[split]} for {use}" for split, use in _USES.items() if people.get(split))
    spacing = " × ".join("as acquired" if mm is None else f"{mm:g} mm" for mm in record.settings.spacing)
    trained = (
        f"{config.method} ({method.description} {cite(method.citation)}) was trained on {', '.join(config.contrasts)} "
        f"of {people.get('train', 0)} people [describe them]"
    )
    sentences = [
        f"{trained}; {held} were held out." if held else f"{trained}.",
        f"Scans were brought to voxels of {spacing}, and their intensities to [0, 1] ({record.settings.intensity}).",
        f"It took {run.weights['training_step']} steps of {config.training.batch_size} samples in "
        f"{config.training.precision} (seed {config.seed}); the {run.chosen} weights were used (SHA-256 "
        f"{run.weights['sha256'][:12]}…). Networks were those of scansynth {scansynth.__version__}, in PyTorch "
        f"{cite(PYTORCH)}.",
    ]  # fmt: skip
    if named := named_weights(run.folder):
        sentences.append(f"Of published weights: {named}.")
    if record.raw:
        sentences += _brought({**asdict(record.raw), "registered": True}, cite)
    return MethodsText(" ".join(sentences), tuple(cited))


_USES = {"val": "validation", "test": "testing"}


def _of_each_way(images: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One sidecar of each target, sources and way of drawing."""
    keys = ("target", "sources", "method", "weights", "samples", "mean", "realism", "sampling_steps", "intervals")
    return _distinct(images, [
        {key: list(told[key]) if key == "sources" else told.get(key) for key in keys} for told in images
    ])  # fmt: skip


def _distinct(values: Sequence[Mapping[str, Any]], keys: Sequence[Any] | None = None) -> list[Mapping[str, Any]]:
    """Those that differ; of what was brought together, where the way does."""
    if keys is None:
        keys = [(one.get("bias"), one.get("brain"), bool(one.get("registered"))) for one in values]
    found: list[Any] = []
    kept = []
    for key, value in zip(keys, values, strict=True):
        if key not in found:
            found.append(key)
            kept.append(value)
    return kept


def _drawn(told: Mapping[str, Any], cite: Any) -> str:
    """How the image was drawn."""
    samples, realism = told.get("samples", 1), told.get("realism")
    if told.get("mean") and samples == 1:
        text = "The mean given the sources was computed in one call of the network"
    elif realism is not None:
        text = f"Images lie at {realism:g} on the way from the mean given the sources (0) to a random sample (1)"
    else:
        steps, solver = told.get("sampling_steps", 1), SOLVERS.get(str(told.get("sampler")))
        calls = f"{steps} sampling steps{' ' + cite(solver) if solver else ''}" if steps > 1 else "one network call"
        text = f"An image took {calls}"
        text += f"; the mean of {samples} samples and their deviation are given" if samples > 1 else ""
    if told.get("intervals"):
        text += f"; intervals were calibrated on {told.get('intervals_of', 'validation subjects')} {cite(CONFORMAL)}"
    return f"{text}."


def _brought(how: Mapping[str, Any], cite: Any) -> list[str]:
    """How the sources were brought together."""
    sentences = []
    if how.get("bias") == "n4":
        sentences.append(f"Bias fields were removed by N4 {cite(N4)} as in SimpleITK {cite(SIMPLE_ITK)}.")
    if how.get("registered"):
        sentences.append(
            f"Each subject's scans were registered rigidly to one of them by mutual information {cite(REGISTRATION)} "
            f"in SimpleITK {cite(SIMPLE_ITK)} and interpolated onto its grid."
        )
    brain = how.get("brain")
    if brain == ROUGH:
        sentences.append("Brains were cut out by a rough mask that a numerical phantom gives.")
    if brain == PROGRAM:
        sentences.append("Brains were cut out by [name and cite the program].")
    return sentences
