"""Every rule of a plan decides in the case that it is for."""

from dataclasses import replace

import pytest

from scansynth.errors import InputError
from scansynth.planning.plan_rules import FEW_STEPS, MANY_STEPS, PAIRED, RULES, Facts, adjusted_width, decide

ALL = ("T1w", "T2w", "FLAIR")
PAIRS = Facts(
    contrasts=ALL, targets=("FLAIR",), size=(96, 112), spacing=(1.0, 1.0, 1.0), one_grid=False,
    subjects={"train": 20, "val": 3, "test": 5}, having=dict.fromkeys(ALL, 20), paired=dict.fromkeys(ALL, 20),
    slices=2000, device="cpu", memory_gb=16.0, hours=1.0,
)  # fmt: skip
APART = replace(PAIRS, paired=dict.fromkeys(ALL, 0), having={"T1w": 9, "T2w": 20, "FLAIR": 4})
ONE = replace(PAIRS, contrasts=("T1w",), targets=(), one_grid=True, paired={"T1w": 0})
GPU = replace(PAIRS, device="cuda", memory_gb=80.0)

CASES = {
    "generation": (ONE, "cdpm"),
    "paired": (PAIRS, "regression"),
    "unpaired": (APART, "syndiff"),
    "few pairs": (replace(APART, paired={"FLAIR": PAIRED - 1}), "syndiff"),
    "generated contrast": (ONE, ("T1w",)),
    "both directions": (APART, ("T2w", "FLAIR")),
    "all sources": (PAIRS, ALL),
    "sets of slices": (ONE, "slice_set"),
    "thick slices": (replace(PAIRS, spacing=(0.8, 0.8, 5.0)), "slice"),
    "two dimensions": (PAIRS, "slice"),
    "a paper's recipe": (GPU, "regression"),
    "a small recipe": (PAIRS, "regression_small"),
    "levels": (PAIRS, (1, 1, 2, 2)),
    "memory": (replace(PAIRS, memory_gb=2.0), 16),
    "a GPU's width": (GPU, 64),
    "two cores' width": (PAIRS, 32),
    "batch on a GPU": (GPU, 8),
    "batch": (PAIRS, 4),
    "augmentation": (PAIRS, "mirror images"),
    "learning rate, narrow": (PAIRS, 1e-3),
    "learning rate, wide": (GPU, 5e-4),
}
"""Rule → facts in which it decides, and what it then says."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_decides_its_case(rule):
    facts, value = CASES[rule.name]
    decision = decide(facts)[rule.topic]
    assert (decision.rule, decision.value) == (rule.name, value)
    assert decision.why
    assert "{" not in decision.why


def test_the_levels_follow_the_slice():
    for size, levels in (((16, 16), 2), ((64, 80), 4), ((90, 96), 2), ((91, 96), 1), ((160, 192), 5), ((512, 512), 5)):
        assert len(decide(replace(PAIRS, size=size))["multipliers"].value) == levels, size


def test_large_cohorts_are_not_mirrored():
    assert "augmentation" not in decide(replace(PAIRS, slices=40 * FEW_STEPS))


def test_methods_that_were_tuned_keep_their_networks():
    assert not {"width", "multipliers", "batch size", "learning rate"} & decide(APART).keys()


def test_every_target_must_be_paired_for_a_paired_method():
    both = replace(PAIRS, targets=("T2w", "FLAIR"), paired={"T2w": 20, "FLAIR": 0})
    with pytest.raises(InputError, match="name one --target"):
        decide(both)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(ONE, one_grid=False), "one contrast .* on several grids"),
        (replace(APART, having={"T1w": 3, "T2w": 3, "FLAIR": 0}), "no training subject has FLAIR"),
        (replace(APART, targets=()), "name one --target"),
    ],
)
def test_what_cannot_be_trained_is_said_with_the_way_on(facts, message):
    with pytest.raises(InputError, match=message):
        decide(facts)


def test_the_width_follows_the_steps_that_fit():
    assert adjusted_width(32, FEW_STEPS - 1, "cpu")[0] == 16
    assert adjusted_width(16, 10, "cpu")[0] == 16
    assert adjusted_width(32, FEW_STEPS + 1, "cpu")[0] == 32
    assert adjusted_width(32, MANY_STEPS + 1, "cpu")[0] == 48
    assert adjusted_width(64, MANY_STEPS + 1, "cuda")[0] == 64
