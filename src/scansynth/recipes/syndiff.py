"""Recipes of SynDiff (Özbey et al. 2023): the paper's, a small one, its tasks, and the ablations of Tables VI to X.

Number of training steps: the paper trains 50 epochs on 100 slices of each of 25 subjects and names no batch size;
with a batch of one that is 125,000 steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scansynth.config import DataSettings, RunConfig, Training
from scansynth.methods.syndiff import SynDiffConfig

Recipe = RunConfig[SynDiffConfig]
SUBJECTS, SLICES = 25, 100
"""That the paper trains on: people, and slices of each (IXI, BRATS)."""


def syndiff() -> Recipe:
    """Unpaired, the paper's settings, 256×256 slices."""
    return RunConfig(
        method="syndiff",
        settings=SynDiffConfig(),
        training=Training(steps=125_000, batch_size=1),
    )


def syndiff_small() -> Recipe:
    """Unpaired, the same code at the size of 64–96 pixel slices and two cores."""
    return RunConfig(
        method="syndiff",
        settings=SynDiffConfig(
            channels=16,
            multipliers=(1, 1, 2, 4),
            blocks=1,
            attention_levels=(),
            latent_width=64,
            discriminator_channels=16,
            discriminator_blocks=5,
            translator_channels=8,
            # Paper: 0.5 and 0.5, over 125,000 steps. Here: 10, because within some thousand steps on a few patients the
            # adversarial game otherwise drowns the source: the validation PSNR falls from the first thousand on.
            cycle_weight_translator=10.0,
            cycle_weight_diffusive=10.0,
            learning_rate=5e-4,
        ),
        training=Training(steps=8000, batch_size=1, decay="cooldown"),
    )


def syndiff_public_code() -> Recipe:
    """Unpaired, architecture and settings of the public release, 256×256 slices."""
    return RunConfig(
        method="syndiff",
        settings=SynDiffConfig(
            networks="public",
            first_time=0.001,
            # The release penalises every tenth step and does not make up for it: η/10 in effect.
            gradient_penalty=0.05,
            penalty_every=10,
            learning_rate=1.6e-4,
            discriminator_learning_rate=1e-4,
            final_learning_rate=1e-5,
        ),
        training=Training(steps=1_250_000, batch_size=1),  # 500 epochs of 2,500 slices
    )


@dataclass(frozen=True)
class ContrastPair:
    """A pair of contrasts in one of the paper's data sets (section IV-A)."""

    description: str
    """Data set and contrasts."""
    contrasts: tuple[str, str]
    """Both are made from each other."""
    subjects: int = SUBJECTS
    """For training, of the paper's split."""
    slices: int = SLICES
    """Axial slices of each."""
    accelerated: bool = False
    """The first contrast is known from a scan accelerated 4-fold in both in-plane dimensions."""

    def of(self, base: RunConfig[Any]) -> RunConfig[Any]:
        """A recipe on this pair, for as many epochs as it makes of 25 subjects' 100 slices: SynDiff 50."""
        acceleration = ((self.contrasts[0], 4),) if self.accelerated else ()
        steps = base.training.steps * self.subjects * self.slices // (SUBJECTS * SLICES)
        return replace(
            base,
            contrasts=self.contrasts,
            data=DataSettings(min_foreground=0.0, slices_per_subject=self.slices, acceleration=acceleration),
            training=replace(base.training, steps=steps),
        )


TASKS: dict[str, ContrastPair] = {
    "ixi_t1_t2": ContrastPair("IXI, T1w and T2w (Table II)", ("T1w", "T2w")),
    "ixi_pd_t1": ContrastPair("IXI, PDw and T1w (Table II)", ("PDw", "T1w")),
    "ixi_pd_t2": ContrastPair("IXI, PDw and T2w (Table II)", ("PDw", "T2w")),
    "brats_t1_t2": ContrastPair("BRATS, T1w and T2w (Table III)", ("T1w", "T2w")),
    "brats_flair_t1": ContrastPair("BRATS, FLAIR and T1w (Table III)", ("FLAIR", "T1w")),
    "brats_flair_t2": ContrastPair("BRATS, FLAIR and T2w (Table III)", ("FLAIR", "T2w")),
    "pelvis_t2_ct": ContrastPair("pelvis, T2w and CT (Table IV)", ("T2w", "CT"), subjects=9, slices=90),
    "pelvis_t1_ct": ContrastPair("pelvis, T1w and CT (Table IV)", ("T1w", "CT"), subjects=9, slices=90),
    "pelvis_accelerated_t2_ct": ContrastPair(
        "pelvis, accelerated T2w and CT (Table IV)", ("T2w", "CT"), subjects=9, slices=90, accelerated=True
    ),
    "pelvis_accelerated_t1_ct": ContrastPair(
        "pelvis, accelerated T1w and CT (Table IV)", ("T1w", "CT"), subjects=9, slices=90, accelerated=True
    ),
}


@dataclass(frozen=True)
class Ablation:
    """A variant of the paper's: a recipe that differs from its base in one point."""

    description: str
    """What differs, and the paper's table."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method that differ."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Settings that are multiplied. Paper: loss weights in (0.25, 0.5, 1) and (0.5, 1, 2) around its 0.5 and 1."""
    pretrained: bool = False
    """The non-diffusive module is trained first, for as many steps as all together later."""
    frozen_after: float | None = None
    """Share of the base's steps after which the non-diffusive module is frozen."""

    def of(self, base: Recipe) -> Recipe:
        """The variant of a recipe."""
        steps = base.training.steps
        settings = {
            **self.settings,
            **{name: factor * getattr(base.settings, name) for name, factor in self.factors.items()},
        }
        if self.pretrained:
            settings["diffusive_from"] = steps
        if self.frozen_after is not None:
            settings["translators_until"] = round(self.frozen_after * steps)
        training = replace(base.training, steps=2 * steps) if self.pretrained else base.training
        return replace(base, settings=replace(base.settings, **settings), training=training)


DDPM = {"variant": "ddpm", "adversarial_weight_diffusive": 0.0, "step_size": 1}
"""SynDiff's DDPM: T = 1000, 1000 steps, cosine schedule, cycle weight 1 (section IV-B.2)."""
UNCONDITIONAL = {"variant": "unconditional"}
WEIGHTS = {
    "cycle_translator": ("cycle_weight_translator", "λ_1φ"),
    "cycle_diffusive": ("cycle_weight_diffusive", "λ_1θ"),
    "adversarial_translator": ("adversarial_weight_translator", "λ_2φ"),
    "adversarial_diffusive": ("adversarial_weight_diffusive", "λ_2θ"),
}

ABLATIONS: dict[str, Ablation] = {
    "supervised": Ablation("paired slices, the acquired source guides (section VI-C)", {"variant": "supervised"}),
    "ddpm": Ablation(
        "DDPM in place of adversarial diffusion (Tables II to V)", DDPM, factors={"cycle_weight_translator": 2.0}
    ),
    "unconditional": Ablation("one contrast, no guide (Table VI)", UNCONDITIONAL),
    "unconditional_l1": Ablation(
        "one contrast, no guide, ℓ1 projector (Table VI)", {**UNCONDITIONAL, "adversarial_weight_diffusive": 0.0}
    ),
    "unconditional_l1_1000": Ablation(
        "one contrast, no guide, ℓ1 projector, T/k = 1000 (Table VI)",
        {**UNCONDITIONAL, "adversarial_weight_diffusive": 0.0, "step_size": 1},
    ),
    "no_adversarial": Ablation(
        "without adversarial losses (Table VII)",
        {"adversarial_weight_translator": 0.0, "adversarial_weight_diffusive": 0.0},
    ),
    "no_cycle": Ablation(
        "without cycle loss (Table VII)", {"cycle_weight_translator": 0.0, "cycle_weight_diffusive": 0.0}
    ),
    "non_diffusive": Ablation("the non-diffusive module alone (Table VII)", {"variant": "non-diffusive"}),
    "steps_2": Ablation("T/k = 2 (Table VIII)", {"step_size": 500}),
    "steps_8": Ablation("T/k = 8 (Table VIII)", {"step_size": 125}),
    **{
        f"{word}_{weight}": Ablation(f"{word} {symbol} (Table VIII)", factors={name: factor})
        for weight, (name, symbol) in WEIGHTS.items()
        for word, factor in (("half", 0.5), ("double", 2.0))
    },
    "pretrained_frozen": Ablation(
        "non-diffusive module trained first, then frozen (Table IX)", pretrained=True, frozen_after=1.0
    ),
    "pretrained_trained": Ablation("non-diffusive module trained first (Table IX)", pretrained=True),
    **{
        f"frozen_after_{epochs}": Ablation(
            f"non-diffusive module frozen after {epochs} of 50 epochs (Table X)", frozen_after=epochs / 50
        )
        for epochs in (5, 10, 25)
    },
}


def syndiff_small_ddpm() -> Recipe:
    """syndiff_small, DDPM in place of adversarial diffusion, sampled in 20 steps of its 1000."""
    recipe = ABLATIONS["ddpm"].of(syndiff_small())
    # Paper: the noise, at even times. Here: the velocity, at times even in log-SNR: an error of ε_f is one of x̂_0 many
    # times over where little of the image is left. On phantoms 580 steps by the paper's way left T2w a grey background
    # and a brain too bright by a fifth of the range; 445 this way had both right, 2 to 3 dB above (one run each).
    settings = replace(recipe.settings, step_size=50, output="velocity", spacing="log-snr")
    return replace(recipe, settings=settings)
