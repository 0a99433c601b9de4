"""Drawn splits; what data sets state is tested with their layouts."""

import pytest

from scansynth.data.splits import choose_splits
from scansynth.errors import InputError


def test_drawn_splits():
    people = {f"p{number}": None for number in range(10)}
    drawn = choose_splits(people, (0.7, 0.1, 0.2), 0)
    assert sorted(drawn.values()) == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert choose_splits(dict(reversed(people.items())), (0.7, 0.1, 0.2), 0) == drawn
    assert choose_splits(people, (0.7, 0.1, 0.2), 1) != drawn
    assert set(choose_splits({"p0": None}, (0, 0.5, 0.5), 0).values()) == {"train"}
    with pytest.raises(InputError, match="add up to 1"):
        choose_splits(people, (0.7, 0.7, 0.2), 0)


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
