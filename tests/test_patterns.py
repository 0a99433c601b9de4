"""Folders that are named otherwise: nnU-Net's, and those whose form the user states."""

import json

import nibabel as nib
import numpy as np
import pytest

from scansynth.cli import main
from scansynth.data.layouts import find_subjects, told
from scansynth.data.pattern_layout import parse
from scansynth.errors import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(path, pattern=None):
    return {
        one.name: {contrast: file.relative_to(path).as_posix() for contrast, file in one.scans.items()}
        for one in find_subjects(path, pattern).subjects
    }


def nnunet(root, channels, cases=("a_1", "b_2"), tests=()):
    (root / "dataset.json").write_text(json.dumps({"channel_names": channels, "file_ending": ".nii.gz"}))
    for part, names in (("imagesTr", cases), ("imagesTs", tests)):
        touch(root, *(f"{part}/{case}_{int(number):04}.nii.gz" for case in names for number in channels))
    touch(root, *(f"labelsTr/{case}.nii.gz" for case in cases))


def test_nnunet_channels_are_what_dataset_json_names_them(tmp_path):
    nnunet(tmp_path, {"0": "T1", "1": "T2_FLAIR", "2": "ADC"}, tests=("c",))
    listing = find_subjects(tmp_path)
    assert (listing.layout, listing.contrasts) == ("nnU-Net", ("T1w", "FLAIR"))
    assert found(tmp_path) == {
        "a_1": {"T1w": "imagesTr/a_1_0000.nii.gz", "FLAIR": "imagesTr/a_1_0001.nii.gz"},
        "b_2": {"T1w": "imagesTr/b_2_0000.nii.gz", "FLAIR": "imagesTr/b_2_0001.nii.gz"},
        "c": {"T1w": "imagesTs/c_0000.nii.gz", "FLAIR": "imagesTs/c_0001.nii.gz"},
    }
    assert [one.split for one in listing.subjects] == ["train", "train", "test"]
    assert [one.masks.get("seg") for one in listing.subjects] == [
        tmp_path / "labelsTr" / "a_1.nii.gz", tmp_path / "labelsTr" / "b_2.nii.gz", None,
    ]  # fmt: skip
    assert {one.path.name for one in listing.not_taken} == {f"{case}_0002.nii.gz" for case in ("a_1", "b_2", "c")}


def test_nnunet_without_a_test_set_states_no_split_and_its_first_version_is_known(tmp_path):
    nnunet(tmp_path, {"0": "T1"})
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MPRAGE"}}))
    assert [one.split for one in find_subjects(tmp_path).subjects] == [None, None]
    assert set(found(tmp_path)["a_1"]) == {"T1w"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"numTraining": 2}, "names no channels"),
        ({"channel_names": ["T1"]}, "names no channels"),
        ({"channel_names": {"0": "T1", "1": "T1w"}}, "two channels are T1w"),
    ],
)
def test_a_dataset_json_that_does_not_say_which_channel_is_what_is_refused(tmp_path, content, why):
    nnunet(tmp_path, {"0": "T1", "1": "T2"})
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=why):
        find_subjects(tmp_path)


def test_a_pattern_says_where_subject_and_contrast_stand(tmp_path):
    touch(
        tmp_path,
        "case1/T1.nii.gz",
        "case1/t2_flair.nii",
        "case1/seg.nii.gz",
        "case1/notes.nii.gz",
        "case2/T1.mgz",
        "readme.nii.gz",
    )
    listing = find_subjects(tmp_path, "{subject}/{contrast}.nii.gz")
    assert listing.layout == "pattern"
    assert found(tmp_path, "{subject}/{contrast}.nii.gz") == {
        "case1": {"T1w": "case1/T1.nii.gz", "FLAIR": "case1/t2_flair.nii"},
        "case2": {"T1w": "case2/T1.mgz"},
    }
    assert listing.subjects[0].masks == {"seg": tmp_path / "case1" / "seg.nii.gz"}
    assert {one.path.name for one in listing.not_taken} == {"notes.nii.gz", "readme.nii.gz"}
    assert all("readme" in line or "notes" in line for line in told(listing)[1:])


def test_the_longest_name_of_a_contrast_counts_and_sessions_are_visits(tmp_path):
    touch(tmp_path, "x_01_2_T2_FLAIR.nii.gz", "x_01_2_T1.nii.gz", "x_01_3_T1.nii.gz")
    with pytest.raises(InputError, match="may be T1w of x_ses-01_2 or T1w of x_01_ses-2"):
        found(tmp_path, "{subject}_{session}_{contrast}")
    assert found(tmp_path, "x_{subject}_{session}_{contrast}") == {
        "01_ses-2": {"T1w": "x_01_2_T1.nii.gz", "FLAIR": "x_01_2_T2_FLAIR.nii.gz"},
        "01_ses-3": {"T1w": "x_01_3_T1.nii.gz"},
    }


def test_a_field_that_stands_twice_says_the_same_twice(tmp_path):
    touch(tmp_path, "p1/p1-T1.nii.gz", "p1/p2-T2.nii.gz", "raw/p3/p3-T1.nii.gz")
    assert found(tmp_path, "{subject}/{subject}-{contrast}.nii.gz") == {"p1": {"T1w": "p1/p1-T1.nii.gz"}}
    assert set(found(tmp_path, "*/{subject}/{subject}-{contrast}.nii.gz")) == {"p3"}


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("{subject}.nii.gz", "subject and contrast stand"),
        ("{patient}/{contrast}.nii.gz", "not known"),
        ("/data/{subject}/{contrast}.nii.gz", "from the data folder on"),
        ("../{subject}/{contrast}.nii.gz", "from the data folder on"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(pattern, why):
    with pytest.raises(InputError, match=why):
        parse(pattern)


def test_two_files_of_one_contrast_are_refused_and_a_table_has_no_pattern(tmp_path):
    touch(tmp_path, "a/T1.nii.gz", "a/t1w.nii.gz")
    with pytest.raises(InputError, match="both T1w of one subject"):
        find_subjects(tmp_path, "{subject}/{contrast}")
    (tmp_path / "table.csv").write_text("subject,contrast,path\na,T1w,a/T1.nii.gz\n")
    with pytest.raises(InputError, match="leave --pattern out"):
        find_subjects(tmp_path / "table.csv", "{subject}/{contrast}")


def test_a_folder_without_layout_is_prepared_by_its_pattern(tmp_path):
    rng = np.random.default_rng(0)
    for case in ("one", "two"):
        for kind in ("T1", "T2"):
            array = np.zeros((24, 24, 8), np.float32)
            array[4:20, 4:20, 1:7] = rng.uniform(50, 100, (16, 16, 6))
            (tmp_path / "data" / case).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([4.0, 4, 4, 1])), tmp_path / "data" / case / f"{kind}.nii.gz")
    words = ["prepare", "-i", str(tmp_path / "data"), "-o", str(tmp_path / "c"), "--fractions", "1", "0", "0"]
    assert main(words) == 1
    assert main([*words, "--pattern", "{subject}/{contrast}.nii.gz"]) == 0
    assert (tmp_path / "c" / "scans" / "two" / "T2w.b2nd").is_file()
