"""Drawn splits; what data sets state is tested with their layouts."""

import math

import pytest

from scansynth.data.splits import choose_splits, exact_splits, foresee
from scansynth.errors import InputError


def test_drawn_splits():
    people = {f"p{number}": None for number in range(10)}
    drawn = choose_splits(people, (0.7, 0.1, 0.2), 0)
    assert sorted(drawn.values()) == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert choose_splits(dict(reversed(people.items())), (0.7, 0.1, 0.2), 0) == drawn
    assert choose_splits(people, (0.7, 0.1, 0.2), 1) != drawn
    assert set(choose_splits({"p0": None}, (0.2, 0.4, 0.4), 0).values()) == {"train"}  # somebody must


FRACTIONS = {
    (0.7, 0.7, 0.2): "add up to 1",
    (1.2, -0.1, -0.1): "not negative",
    (math.nan, 0.5, 0.5): "add up to 1",
    (0.0, 0.0, 1.0): "leave nobody to train",
    (0.0, 0.5, 0.5): "leave nobody to train",
}


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_shares_that_cannot_be_drawn_are_refused(fractions):
    with pytest.raises(InputError, match=FRACTIONS[fractions]):
        choose_splits({f"p{number}": None for number in range(10)}, fractions, 0)
    assert choose_splits({"a": "train"}, fractions, 0) == {"a": "train"}  # where splits are stated, nothing is drawn


@pytest.mark.parametrize("people", [*range(1, 40), 99, 150, 199, 200, 201, 250, 1000])
@pytest.mark.parametrize(
    "fractions", [(0.7, 0.1, 0.2), (0.9, 0.05, 0.05), (0.2, 0.4, 0.4), (0.5, 0.5, 0.0), (0.3, 0, 0.7)]
)
def test_each_split_that_gets_nobody_is_warned_of_with_a_cure(people, fractions):
    stated = {f"p{number}": None for number in range(people)}
    found = foresee(stated, fractions, 0)
    assert "train" in found.splits.values()
    empty = {"val", "test"} - set(found.splits.values())
    said = {"val": "no subject validates", "test": "no subject tests"}
    assert {split for split, text in said.items() if any(text in told for told in found.warnings)} == empty
    for told in found.warnings:
        if people < 3:
            assert told.endswith("three people are needed: add subjects")
            continue
        train, val, test = map(float, told.partition("--fractions ")[2].split()[:3])
        assert set(choose_splits(stated, (train, val, test), 0).values()) == {"train", "val", "test"}


def test_two_train_and_one_tests_is_warned_of():
    found = foresee({"a": None, "b": None, "c": None}, (0.7, 0.1, 0.2), 0)
    assert found.line.startswith("splits: 2 train, 0 val, 1 test")
    assert found.warnings[0].startswith("no subject validates")
    stated = foresee({"a": "train", "b": "train", "c": "test"}, (0.7, 0.1, 0.2), 0)
    assert stated.warnings == (
        "no subject validates, so that synthesis later uses the last weights, not the best; name some where the data "
        "states its splits",
    )


def test_shares_are_not_passed_over_where_the_data_states_a_split():
    stated = {"a": "train", "b": "val", "c": "test"}
    assert foresee(stated, (0.7, 0.1, 0.2), 0).warnings == ()
    (warning,) = foresee(stated, (0.5, 0.25, 0.25), 0).warnings
    assert "the data states its splits, so --fractions do not count" in warning


def test_who_lacks_a_split_is_named_by_examples():
    stated = {f"p{number}": "train" if number < 3 else None for number in range(50)}
    with pytest.raises(InputError, match=r"p3, p4, p5, p6, p7 … \(47 in all\)"):
        choose_splits(stated, (0.7, 0.1, 0.2), 0)


@pytest.mark.parametrize("seed", range(5))
def test_visits_of_one_person_stay_together(seed):
    visits = {f"sub-{person}_ses-{visit}": None for person in range(9) for visit in range(3)}
    drawn = choose_splits(visits, (0.5, 0.2, 0.3), seed)
    for person in range(9):
        assert len({drawn[f"sub-{person}_ses-{visit}"] for visit in range(3)}) == 1


def test_given_splits_hold_and_must_be_complete():
    assert choose_splits({"a": "test", "b": "train"}, (1, 0, 0), 0) == {"a": "test", "b": "train"}
    with pytest.raises(InputError, match="without a split"):
        choose_splits({"a": "test", "b": None}, (1, 0, 0), 0)


def test_exact_splits_have_the_asked_numbers_of_people():
    visits = {f"sub-{person}_ses-{visit}": None for person in range(9) for visit in (1, 2)}
    drawn = exact_splits(visits, (4, 1, 2), 0)
    assert sorted(drawn.values()) == ["test"] * 2 + ["train"] * 4 + ["val"]
    assert all(name.endswith("ses-1") for name in drawn)
    assert exact_splits(dict(reversed(visits.items())), (4, 1, 2), 0) == drawn
    assert exact_splits(visits, (4, 1, 2), 1) != drawn
    with pytest.raises(InputError, match=r"9 people are there, but 10 are needed \(7 train, 1 val, 2 test\)"):
        exact_splits(visits, (7, 1, 2), 0)


def test_exact_splits_keep_what_the_data_states():
    stated = {"a": "train", "b": "test", "c": "train", "d": "val", "e": "train"}
    assert exact_splits(stated, (2, 1, 1), 0) == {"a": "train", "b": "test", "c": "train", "d": "val"}
    with pytest.raises(InputError, match="split of 3 train, 1 val, 1 test, but 2 train, 1 val, 2 test are needed"):
        exact_splits(stated, (2, 1, 2), 0)
