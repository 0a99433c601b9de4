"""Drawn splits; what data sets state is tested with their layouts."""

import pytest

from scansynth.data.splits import choose_splits, exact_splits
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
