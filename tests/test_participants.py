"""`participants.tsv`: nothing in it is passed over without a word."""

import json

import pytest

from scansynth.data.layouts import describe, find_subjects
from scansynth.errors import InputError

NAMES = ("sub-001", "sub-002", "sub-010")


@pytest.fixture
def data(tmp_path):
    for name in NAMES:
        (tmp_path / name / "anat").mkdir(parents=True)
        (tmp_path / name / "anat" / f"{name}_T1w.nii.gz").touch()
    return tmp_path


def write(data, *lines, name="participants.tsv"):
    (data / name).write_text("".join(f"{line}\n" for line in lines).replace(" ", "\t"))


def splits(data):
    return [subject.split for subject in find_subjects(data).subjects]


def refused(data):
    with pytest.raises(InputError) as caught:
        find_subjects(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_ids_without_sub_and_headers_in_any_case_count(data, caplog):
    rows = ("001 60 Train", "002 61 VALIDATION", "SUB-010 N/A test")
    write(data, "Participant_ID AGE Split", *rows)
    listing = find_subjects(data)
    assert [subject.split for subject in listing.subjects] == ["train", "val", "test"]
    assert [subject.labels for subject in listing.subjects] == [{"AGE": "60"}, {"AGE": "61"}, {}]
    assert "stated splits: 1 train, 1 val, 1 test\nlabels: 2 AGE" in describe(listing)
    assert not caplog.records


@pytest.mark.parametrize(
    ("word", "split"), [("TRAINING", "train"), ("valid", "val"), ("Dev", "val"), ("testing", "test")]
)
def test_words_for_splits(data, word, split):
    write(data, "participant_id split", *(f"{name} {word}" for name in NAMES))
    assert splits(data) == [split] * 3


def test_bytes_of_spreadsheets(data):
    text = "Participant_id\tsplit\r\n001\ttrain\r\n002\ttest\r\n010\ttest\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        (data / "participants.tsv").write_bytes(text.encode(encoding))
        assert splits(data) == ["train", "test", "test"]
    for encoding in ("utf-16", "utf-16-be"):
        (data / "participants.tsv").write_bytes(text.encode(encoding))
        assert "UTF-16" in refused(data)
    (data / "participants.tsv").write_bytes("participant_id\tname\nsub-001\tJürg\n".encode("latin-1"))
    assert "not a UTF-8 text" in refused(data)


def test_rows_and_subjects_that_do_not_match_are_named(data, caplog):
    write(data, "participant_id age", "sub-001 60", *(f"sub-9{number} 70" for number in range(7)))
    assert [subject.labels for subject in find_subjects(data).subjects] == [{"age": "60"}, {}, {}]
    rows, subjects = (record.getMessage() for record in caplog.records)
    assert rows.endswith("7 rows are of nobody who has scans: sub-90, sub-91, sub-92, sub-93, sub-94 …")
    assert subjects.endswith("2 subjects have no row, so no labels: sub-002, sub-010")


def test_none_that_matches_is_an_error(data):
    write(data, "participant_id age", "p1 60", "p2 61")
    message = refused(data)
    assert "names p1, p2, none of them a subject found (sub-001, sub-002, sub-010)" in message
    assert "write their names in participant_id, or move the file away" in message
    write(data, "participant_id age")
    assert "has no rows" in refused(data)


def test_a_lost_zero_is_asked_about_and_not_guessed(data, caplog):
    write(data, "participant_id age", "1 60", "sub-002 61", "10.0 62")
    assert [subject.labels for subject in find_subjects(data).subjects] == [{}, {"age": "61"}, {}]
    assert "1 (sub-001 is probably meant), 10.0 (sub-010 is probably meant)" in caplog.text
    write(data, "participant_id age", "1 60", "2 61")
    assert "names 1 (sub-001 is probably meant), 2 (sub-002 is probably meant), none" in refused(data)


def test_a_lost_zero_that_costs_a_split_is_an_error(data):
    write(data, "participant_id split", "1 test", "sub-002 train", "sub-010 train")
    message = refused(data)
    assert "states splits of 1 (sub-001 is probably meant)" in message
    write(data, "participant_id split", "1 test", "sub-001 test", "sub-002 train", "sub-010 train")
    assert splits(data) == ["test", "train", "train"]


FLAWS = {
    "cells": (("participant_id age", "sub-001"), "line 2 has 1 cells, its first line 2"),
    "no ids": (("subject age", "sub-001 3"), "lacks the columns participant_id"),
    "twice": (("participant_id age", "sub-001 3", "001 4"), "line 3 says something else of 001 than a line before"),
    "no id": (("participant_id age", "n/a 3", "sub-001 4"), "line 2 has no participant_id"),
    "two splits": (("participant_id split", "sub-001 train", "001 test"), "puts sub-001 into train and test"),
    "split": (("participant_id split", "sub-001 held-out"), "names the split 'held-out': use train, val, test only"),
    "column twice": (("participant_id Split split", "sub-001 train test"), "names a column twice"),
    "open quote": (("participant_id note", 'sub-001 "left', "sub-002 right"), "mend the quotes"),
    "nameless": (("participant_id ", "sub-001 60"), "'60' stands in a column without a name"),
    "other separator": (("participant_id,age", "sub-001,60"), "lacks the columns participant_id"),
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flawed_table_is_refused(data, flaw):
    lines, reason = FLAWS[flaw]
    write(data, *lines)
    message = refused(data)
    assert reason in message
    assert "participants.tsv" in message


def test_an_empty_column_without_a_name_is_nothing(data):
    write(data, "participant_id age  ", *(f"{name} 60  " for name in NAMES))
    assert all(subject.labels == {"age": "60"} for subject in find_subjects(data).subjects)


@pytest.mark.parametrize("name", ["participants.csv", "Participants.xlsx", "participants.tsv.txt", "participants.txt"])
def test_a_table_under_another_name_is_not_passed_over(data, name):
    (data / "participants.json").write_text("{}")  # BIDS' own description of the columns
    assert splits(data) == [None] * 3
    write(data, "participant_id split", "sub-001 test", name=name)
    assert f"{name} is not read: save it as participants.tsv" in refused(data)
    write(data, "participant_id split", *(f"{one} test" for one in NAMES), name="Participants.TSV")
    assert splits(data) == ["test"] * 3


def test_a_table_that_was_not_fetched_is_not_passed_over(data):
    (data / "participants.tsv").symlink_to(data / ".git/annex/objects/absent")
    assert "link to one that is not there" in refused(data)


def test_a_split_column_that_states_nobody_is_said(data, caplog):
    write(data, "participant_id split", "sub-001 n/a", "sub-99 test")
    assert splits(data) == [None] * 3
    assert "has a column split, but it states nobody's who has scans: splits are drawn" in caplog.text


def test_a_visit_may_have_a_row_of_its_own(tmp_path):
    for visit in ("ses-1", "ses-2"):
        (tmp_path / "sub-01" / visit / "anat").mkdir(parents=True)
        (tmp_path / "sub-01" / visit / "anat" / f"sub-01_{visit}_T1w.nii.gz").touch()
    write(tmp_path, "participant_id age split", "01 60 test", "sub-01_ses-2 61 n/a")
    subjects = find_subjects(tmp_path).subjects
    assert [(subject.labels, subject.split) for subject in subjects] == [
        ({"age": "60"}, "test"),
        ({"age": "61"}, "test"),
    ]


def state(data, content):
    (data / "splits.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def test_splits_json_is_read_as_people_write_it(data):
    state(data, {"Train": ["001"], "VALIDATION": ["SUB-002"], "testing": ["sub-010"]})
    assert splits(data) == ["train", "val", "test"]
    (data / "splits.json").rename(data / "Splits.JSON")
    assert splits(data) == ["train", "val", "test"]
    (data / "Splits.JSON").unlink()
    state(data, b"\xef\xbb\xbf" + json.dumps({"train": list(NAMES)}).encode())
    assert splits(data) == ["train"] * 3


def test_a_splits_json_that_would_be_read_as_less_is_refused(data):
    state(data, b'{"train": ["sub-001"], "train": ["sub-002"], "test": ["sub-010"]}')
    assert "'train' is there twice" in refused(data)
    for nobody in ({}, {"train": [], "test": []}):
        state(data, nobody)
        assert "states nobody's split" in refused(data)
    state(data, {"train": ["1"]})
    assert "names 1 (sub-001 is probably meant), which is no subject" in refused(data)
    state(data, {"train": {"sub-001": 1}})
    assert "must be of the form" in refused(data)
    state(data, '{"train": ["sub-001"]}'.encode("utf-16"))
    assert "UTF-16" in refused(data)
    (data / "splits.json").rename(data / "splits.csv")
    assert "splits.csv is not read: save it as splits.json" in refused(data)


def test_folders_of_train_and_test_state_a_split(tmp_path):
    for folder, names in {"Training": ("a", "b"), "test": ("c",)}.items():
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / f"{name}_t1.nii.gz").touch()
    assert splits(tmp_path) == ["train", "train", "test"]
    state(tmp_path, {"train": ["a", "b", "c"]})
    assert "puts c into train, but it stands in a folder of test" in refused(tmp_path)
    state(tmp_path, {"train": ["a", "b"], "test": ["c"]})
    assert splits(tmp_path) == ["train", "train", "test"]
    (tmp_path / "splits.json").unlink()
    (tmp_path / "test").rename(tmp_path / "HGG")
    assert splits(tmp_path) == [None] * 3  # one such folder may be the name of a data set


def test_persons_named_alike(data, caplog):
    for name in ("sub-01", "SUB-010"):
        (data / name / "anat").mkdir(parents=True)
        (data / name / "anat" / f"{name}_T1w.nii.gz").touch()
    assert "hold one subject twice" in refused(data)
    (data / "SUB-010" / "anat" / "SUB-010_T1w.nii.gz").unlink()
    find_subjects(data)
    assert "sub-001 and sub-01 may be one person" in caplog.text.replace("sub-01 and sub-001", "sub-001 and sub-01")
