"""What to train on a cohort here: rules, each with its reason, in the order in which they are asked.

A topic's first rule that says something decides it. What is measured stands in docs/results.md and docs/performance.md;
where a rule rests on one of their figures, it says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scansynth.errors import InputError

PAIRED = 3
"""Paired training subjects from which on a paired method is taken."""
FEW_STEPS = 1500
"""Steps below which a training is too short for its network: a narrower one learns more in the time."""
MANY_STEPS = 24_000
"""Steps above which a wider network uses the time better."""
GENERATOR_STEPS = 1500
"""Steps below which a generator's volumes are heads in outline at best (docs/results/cdpm.md)."""
MEMORY = 0.7
"""Share of the memory that a plan may take: others work on the machine too."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan goes by: of the cohort, as prepared, and of the machine."""

    contrasts: tuple[str, ...]
    targets: tuple[str, ...]
    """What is to be made; empty: whatever the method makes."""
    size: tuple[int, int]
    """Of an axial slice, voxels."""
    spacing: tuple[float, float, float]
    """mm, median over the training scans."""
    one_grid: bool
    """Whether all scans have one grid, so that volumes can be made without a source."""
    subjects: Mapping[str, int]
    """Of train, val and test."""
    having: Mapping[str, int]
    """Contrast → training subjects who have it."""
    paired: Mapping[str, int]
    """Contrast → training subjects who have it and another one, registered."""
    slices: int
    """Training slices of one contrast that show enough of the head."""
    device: str
    """cpu, cuda or mps."""
    memory_gb: float
    """Of the device."""
    hours: float
    """For the training."""


@dataclass(frozen=True)
class Rule:
    """One rule: what it decides in which case, and why."""

    name: str
    topic: str
    says: Callable[[Facts, Mapping[str, Any]], Any]
    """From the facts and what is decided so far, the decision; None: the next rule of the topic is asked."""
    why: str
    """May name facts and decisions in braces."""


@dataclass(frozen=True)
class Decision:
    """What was decided, by which rule, and why."""

    topic: str
    value: Any
    rule: str
    why: str


def _goals(facts: Facts) -> tuple[str, ...]:
    return facts.targets or tuple(name for name in facts.contrasts if facts.paired.get(name, 0))


def _least_paired(facts: Facts) -> int:
    return min((facts.paired.get(name, 0) for name in _goals(facts)), default=0)


def _unpaired_with(facts: Facts) -> tuple[str, str] | None:
    """The target and the contrast that most training subjects have beside it."""
    if len(facts.targets) == 1 and len(facts.contrasts) > 1:
        target = facts.targets[0]
        others = [name for name in facts.contrasts if name != target]
        source = max(others, key=lambda name: facts.having.get(name, 0))
        return (source, target) if facts.having.get(source, 0) and facts.having.get(target, 0) else None
    return (facts.contrasts[0], facts.contrasts[1]) if not facts.targets and len(facts.contrasts) == 2 else None


def _free(decided: Mapping[str, Any]) -> bool:
    """Whether network and batch are this plan's to choose: those of the other methods were tuned as they stand."""
    return decided["method"] == "regression"


def _levels(facts: Facts) -> int | None:
    """Levels of a U-Net whose sides all halve, the smallest of 8 voxels and more."""
    levels = 1
    while levels < 5 and all(side % 2**levels == 0 and side // 2**levels >= 8 for side in facts.size):
        levels += 1
    return levels


RULES = (
    Rule("generation", "method",
         lambda f, d: "cdpm" if len(f.contrasts) == 1 and f.one_grid else None,
         "one contrast on one grid: there is nothing to translate, whole volumes can be generated"),
    Rule("paired", "method",
         lambda f, d: "regression" if _least_paired(f) >= PAIRED else None,
         "{least} training subjects have the target and a source, registered; of all methods here the regression had "
         "the highest PSNR and SSIM within hours (docs/results.md), and one run takes any set of sources. It draws no "
         "samples: for texture or uncertainty train a diffusion recipe beside it"),
    Rule("unpaired", "method",
         lambda f, d: "syndiff" if _unpaired_with(f) and not _least_paired(f) else None,
         "no training subject has the target and a registered source: only an unpaired method can learn"),
    Rule("few pairs", "method",
         lambda f, d: "syndiff" if _unpaired_with(f) else None,
         "only {least} training subjects have the target and a registered source, fewer than 3: an unpaired method "
         "also learns from those who have one of the two"),
    Rule("generated contrast", "contrasts",
         lambda f, d: f.contrasts if d["method"] == "cdpm" else None, "what is generated"),
    Rule("both directions", "contrasts",
         lambda f, d: _unpaired_with(f) if d["method"] == "syndiff" else None,
         "an unpaired run knows two contrasts: the target, and the one that most subjects have"),
    Rule("all sources", "contrasts",
         lambda f, d: f.contrasts, "any of them may be a source: one checkpoint serves every subset"),
    Rule("sets of slices", "unit",
         lambda f, d: "slice_set" if d["method"] == "cdpm" else None,
         "a volume is made a few slices at a time, which see each other"),
    Rule("thick slices", "unit",
         lambda f, d: "slice" if f.spacing[2] > 1.5 * max(f.spacing[:2]) else None,
         "2D: slices are {through:.2g} mm apart, {plane:.2g} mm in the plane"),
    Rule("two dimensions", "unit",
         lambda f, d: "slice",
         "2D: a slice is seen whole, a 3D patch is not; a step in 3D takes 20 to 100 times as long "
         "(docs/performance.md)"),
    Rule("a paper's recipe", "recipe",
         lambda f, d: d["method"] if f.device == "cuda" else None, "a GPU trains networks of the papers' sizes"),
    Rule("a small recipe", "recipe",
         lambda f, d: f"{d['method']}_small", "without a GPU only small networks see enough slices"),
    Rule("levels", "multipliers",
         lambda f, d: (1, 1, 2, 2, 4)[: _levels(f)] if _free(d) else None,
         "slices of {size} can be halved {halvings} times down to 8 voxels and more"),
    Rule("memory", "width",
         lambda f, d: 16 if _free(d) and f.memory_gb * MEMORY < 1.5 else None,
         "there is little memory: {memory:.1f} GB"),
    Rule("a GPU's width", "width",
         lambda f, d: 64 if _free(d) and f.device == "cuda" else None,
         "a GPU computes wide networks as fast as narrow ones"),
    Rule("two cores' width", "width",
         lambda f, d: 32 if _free(d) else None, "the width of the small recipes; the rate here may change it"),
    Rule("batch on a GPU", "batch size",
         lambda f, d: 8 if _free(d) and f.device == "cuda" else None, "enough to keep a GPU busy"),
    Rule("batch", "batch size",
         lambda f, d: 4 if _free(d) else None, "as in the small recipes: on a CPU a larger one takes as much longer"),
    Rule("augmentation", "augmentation",
         lambda f, d: "mirror images" if _free(d) and f.slices < 20 * FEW_STEPS else None,
         "left and right change places in half of the slices, which come round more than a few times"),
    Rule("learning rate, narrow", "learning rate",
         lambda f, d: 1e-3 if _free(d) and d["width"] <= 32 else None,
         "falls along a cosine to zero at the end: figures rise to the last step"),
    Rule("learning rate, wide", "learning rate",
         lambda f, d: 5e-4 if _free(d) else None, "half as high for a wide network; along a cosine"),
)  # fmt: skip
"""Topic by topic; `contrasts`, `multipliers` and so on are what a recipe's settings are made of
(`planning/plan.py`)."""


def decide(facts: Facts) -> dict[str, Decision]:
    """All topics, decided in order.

    Raises:
        InputError: if nothing can be trained on such a cohort.
    """
    found: dict[str, Decision] = {}
    values: dict[str, Any] = {}
    for rule in RULES:
        if rule.topic in values:
            continue
        value = rule.says(facts, values)
        if value is not None:
            values[rule.topic] = value
            found[rule.topic] = Decision(rule.topic, value, rule.name, rule.why.format(**_words(facts, values)))
        elif rule.name == "few pairs":
            raise InputError(_nothing(facts))
    return found


def adjusted_width(width: int, steps: float, device: str) -> tuple[int, str]:
    """The width that uses the time: narrower where few steps fit, wider where very many do.

    Args:
        width: as the rules say it.
        steps: that fit into the time with it.
        device: cpu, cuda or mps.
    """
    if steps < FEW_STEPS and width > 16:
        return width // 2, f"only about {steps:,.0f} steps fit with {width} channels: half as many learn more"
    if steps > MANY_STEPS and device == "cpu":
        return (
            width * 3 // 2,
            f"about {steps:,.0f} steps fit with {width} channels: a wider network uses the time better",
        )
    return width, f"about {steps:,.0f} steps fit into the time with {width} channels"


def _nothing(facts: Facts) -> str:
    if len(facts.contrasts) == 1:
        return (
            f"one contrast ({facts.contrasts[0]}) and scans on several grids: there is nothing to translate; to "
            "generate volumes prepare on one grid, --size X Y Z --spacing X Y Z, three numbers each"
        )
    if len(facts.targets) > 1:
        return (
            f"fewer than {PAIRED} training subjects have {' and '.join(facts.targets)} with a registered source; "
            "unpaired methods make one contrast: name one --target"
        )
    return (
        f"no training subject has {' or '.join(facts.targets or facts.contrasts)} with a registered source, and "
        "nothing says which two contrasts to learn unpaired: name one --target"
    )


def _words(facts: Facts, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "least": _least_paired(facts), "through": facts.spacing[2], "plane": max(facts.spacing[:2]),
        "size": "×".join(map(str, facts.size)), "halvings": (_levels(facts) or 1) - 1, "memory": facts.memory_gb,
        **values,
    }  # fmt: skip
