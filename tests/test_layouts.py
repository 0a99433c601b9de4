import json
from pathlib import Path

import pytest

from scansynth.data.layouts import describe, find_subjects
from scansynth.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(path: Path) -> dict[str, dict[str, str]]:
    """Subject → contrast → file name."""
    return {s.name: {c: file.name for c, file in s.scans.items()} for s in find_subjects(path).subjects}


def splits(path: Path) -> dict[str, str | None]:
    return {subject.name: subject.split for subject in find_subjects(path).subjects}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_subjects(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def brats(root: Path, *subjects: str) -> None:
    for subject in subjects:
        touch(root, *(f"{subject}/{subject}_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg")))


def test_bids_with_and_without_sessions(tmp_path):
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_ce-gad_T1w.nii.gz",
        "sub-01/anat/sub-01_PDw.nii",
        "sub-01/anat/sub-01_T2starw.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-ms02/ses-1/anat/sub-ms02_ses-1_T2w.nii.gz",
        "sub-ms02/ses-1/ct/sub-ms02_ses-1_ct.nii.gz",
        "sub-ms02/ses-2/anat/sub-ms02_ses-2_FLAIR.nii.gz",
        "sub-ms02/ses-2/anat/sub-ms02_ses-2_CT.nii.gz",
        "sub-03/func/sub-03_task-rest_bold.nii.gz",
    )
    listing = find_subjects(tmp_path)
    assert (listing.layout, listing.root) == ("BIDS", tmp_path)
    assert listing.contrasts == ("T1w", "T2w", "PDw", "FLAIR", "T1ce", "CT", "T2starw")
    assert found(tmp_path) == {
        "sub-01": {
            "T1w": "sub-01_T1w.nii.gz",
            "T1ce": "sub-01_ce-gad_T1w.nii.gz",
            "PDw": "sub-01_PDw.nii",
            "T2starw": "sub-01_T2starw.nii.gz",
        },
        "sub-ms02_ses-1": {"T2w": "sub-ms02_ses-1_T2w.nii.gz", "CT": "sub-ms02_ses-1_ct.nii.gz"},
        "sub-ms02_ses-2": {"FLAIR": "sub-ms02_ses-2_FLAIR.nii.gz", "CT": "sub-ms02_ses-2_CT.nii.gz"},
    }
    assert listing.subjects[0].sidecars == {"T1w": tmp_path / "sub-01/anat/sub-01_T1w.json"}
    assert splits(tmp_path) == {"sub-01": None, "sub-ms02_ses-1": None, "sub-ms02_ses-2": None}


def test_bids_derivatives_parts_and_synthetic_images_are_no_sources(tmp_path):
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_part-phase_T2w.nii.gz",
        "sub-01/anat/sub-01_desc-synthetic_T2w.nii.gz",
        "sub-01/anat/sub-01_FLAIR_synthetic.nii.gz",
        "sub-01/anat/._sub-01_FLAIR.nii.gz",
        "sub-02/anat/sub-02_part-mag_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_PDw.nii.gz",
    )
    assert found(tmp_path) == {
        "sub-01": {"T1w": "sub-01_T1w.nii.gz"},
        "sub-02": {"T1w": "sub-02_part-mag_T1w.nii.gz"},
    }


def test_of_several_runs_the_first_is_taken_with_a_warning(tmp_path, caplog):
    runs = [f"sub-01_{entity}_T1w.nii.gz" for entity in ("acq-mprage", "run-1", "run-2")]
    touch(tmp_path, *(f"sub-01/anat/{run}" for run in reversed(runs)), "sub-01/anat/sub-01_ce-gad_FLAIR.nii.gz")
    assert found(tmp_path) == {"sub-01": {"T1w": runs[0]}}
    several, enhanced = sorted((record.getMessage() for record in caplog.records), key=lambda text: "ce-gad" in text)
    assert several.endswith(f"left out: {runs[1]}, {runs[2]}")
    assert "sub-01_ce-gad_FLAIR" in enhanced


def test_a_bids_scan_in_another_subjects_folder_is_refused(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-011_T1w.nii.gz")
    assert "sub-011_T1w.nii.gz stands in the folder of sub-01 but" in refused(tmp_path)


def test_brats_generations_may_stand_together_and_be_nested(tmp_path):
    brats(tmp_path / "HGG", "Brats18_2013_2_1")
    new = "BraTS-GLI-00001-000"
    touch(tmp_path, *(f"{new}/{new}-{kind}.nii.gz" for kind in ("t1n", "t1c", "t2w", "t2f", "seg")))
    old = "BraTS2021_01476"
    touch(tmp_path, f"{old}/{old}_t1.nii", f"{old}/{old}_t2_synthetic.nii.gz", f"{old}/other_flair.nii.gz")
    touch(tmp_path, "only-a-mask/only-a-mask_seg.nii.gz")
    listing = find_subjects(tmp_path)
    assert listing.layout == "BraTS"
    assert listing.contrasts == ("T1w", "T2w", "FLAIR", "T1ce")
    assert found(tmp_path) == {
        "Brats18_2013_2_1": {
            "T1w": "Brats18_2013_2_1_t1.nii.gz",
            "T1ce": "Brats18_2013_2_1_t1ce.nii.gz",
            "T2w": "Brats18_2013_2_1_t2.nii.gz",
            "FLAIR": "Brats18_2013_2_1_flair.nii.gz",
        },
        new: {
            "T1w": f"{new}-t1n.nii.gz",
            "T1ce": f"{new}-t1c.nii.gz",
            "T2w": f"{new}-t2w.nii.gz",
            "FLAIR": f"{new}-t2f.nii.gz",
        },
        old: {"T1w": f"{old}_t1.nii"},
    }
    assert [set(subject.masks) for subject in listing.subjects] == [{"seg"}, set(), {"seg"}]


def test_one_brats_subject(tmp_path, monkeypatch):
    brats(tmp_path, "BraTS2021_01476")
    assert list(found(tmp_path / "BraTS2021_01476")) == ["BraTS2021_01476"]
    monkeypatch.chdir(tmp_path / "BraTS2021_01476")
    assert list(found(Path("."))) == ["BraTS2021_01476"]


def test_brats_duplicates_are_refused(tmp_path):
    brats(tmp_path, "X")
    touch(tmp_path, "X/X-t1n.nii.gz")
    message = refused(tmp_path)
    assert "X-t1n.nii.gz" in message
    assert "X_t1.nii.gz" in message
    assert "both T1w" in message
    (tmp_path / "X" / "X-t1n.nii.gz").unlink()
    brats(tmp_path / "LGG", "X")
    assert "hold one subject twice" in refused(tmp_path)


@pytest.mark.parametrize("folder", ["", "IXI-{kind}/"])
def test_ixi_flat_or_by_contrast(tmp_path, folder):
    scans = [
        ("IXI012-HH-1211", "T1"),
        ("IXI012-HH-1211", "PD"),
        ("IXI002-Guys-0828", "T2"),
        ("IXI002-Guys-0828", "MRA"),
    ]
    touch(tmp_path, *(f"{folder.format(kind=kind)}{subject}-{kind}.nii.gz" for subject, kind in scans))
    listing = find_subjects(tmp_path)
    assert (listing.layout, listing.contrasts) == ("IXI", ("T1w", "T2w", "PDw"))
    assert found(tmp_path) == {
        "IXI002-Guys-0828": {"T2w": "IXI002-Guys-0828-T2.nii.gz"},
        "IXI012-HH-1211": {"PDw": "IXI012-HH-1211-PD.nii.gz", "T1w": "IXI012-HH-1211-T1.nii.gz"},
    }
    touch(tmp_path, "copy/IXI012-HH-1211-T1.nii.gz")
    assert "both T1w of one subject" in refused(tmp_path)


def write_table(root: Path, *lines: str, name="scans.csv", make=True) -> Path:
    if make:
        touch(root, *(f"images/{letter}.nii.gz" for letter in "abcd"))
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def test_a_table_with_any_contrast_and_splits(tmp_path):
    lines = [
        "\ufeffsubject,contrast,path,split",
        "p1,t1n,images/a.nii.gz,train",
        "p1,DIXON-fat,images/b.nii.gz,",
        ",,,",
        f'p2, T1 ,"{tmp_path}/images/c.nii.gz",test',
    ]
    touch(tmp_path, "images/b.json")
    for name, separator in (("scans.csv", ","), ("scans.tsv", "\t")):
        table = write_table(tmp_path, *(line.replace(",", separator) for line in lines), name=name)
        listing = find_subjects(table)
        assert (listing.layout, listing.root) == ("table", tmp_path)
        assert listing.contrasts == ("T1w", "DIXON-fat")
        assert found(table) == {"p1": {"T1w": "a.nii.gz", "DIXON-fat": "b.nii.gz"}, "p2": {"T1w": "c.nii.gz"}}
        assert splits(table) == {"p1": "train", "p2": "test"}
        assert listing.subjects[0].sidecars == {"DIXON-fat": tmp_path / "images/b.json"}


HEADER = "subject,contrast,path,split"
BAD_TABLES = {
    "unknown columns": (["subject,contrast,path,age,site"], "unknown columns age, site"),
    "missing column": (["subject,path"], "lacks the columns contrast"),
    "semicolons": (["subject;contrast;path"], "lacks the columns subject, contrast, path"),
    "column twice": (["subject,contrast,path,path"], "names a column twice"),
    "no bytes": ([], "lacks the columns"),
    "no rows": ([HEADER], "lists no scans"),
    "empty cell": ([HEADER, "p1,,images/a.nii.gz,"], "line 2 has no contrast"),
    "ragged": ([HEADER, "p1,T1,images/a.nii.gz"], "line 2 has 3 cells, its first line 4"),
    "folder": ([HEADER, "p1,T1,images,"], "{root}/images is a folder: name an image file in it (a folder of DICOM"),
    "two spellings": ([HEADER, "P1,T1,images/a.nii.gz,train", "p1,T2,images/b.nii.gz,test"],
                      "names p1, another line P1: write one subject in one way"),
    "nameless column": (["subject,contrast,path,", "p1,T1,images/a.nii.gz,test"], "line 2: 'test' stands in a column"),
    "open quote": ([HEADER, 'p1,T1,images/a.nii.gz,"train', "p2,T1,images/b.nii.gz,test"], "mend the quotes"),
    "quote over lines": ([HEADER, 'p1,T1,images/a.nii.gz,"', 'p2,T1,images/b.nii.gz,"'], "goes on in the next line"),
    "ambiguous contrast": ([HEADER, "p1,SPACE,images/a.nii.gz,"], "may be T1w, T2w, PDw or FLAIR: write which it is"),
    "mask alone": ([HEADER, "p1,Seg,images/a.nii.gz,"], "lists a seg mask of p1 and no scan"),
    "missing file": ([HEADER, "p1,T1,images/none.nii.gz,"], "images/none.nii.gz does not exist"),
    "same contrast": ([HEADER, "p1,T1,images/a.nii.gz,", "p1,t1n,images/b.nii.gz,"], "both T1w of one subject"),
    "same file": ([HEADER, "p1,T1,images/a.nii.gz,", "p2,T1,images/../images/a.nii.gz,"], "the file of line 2"),
    "bad contrast": ([HEADER, "p1,T1/2,images/a.nii.gz,"], "line 2: contrast name 'T1/2'"),
    "bad subject": ([HEADER, "../p1,T1,images/a.nii.gz,"], "line 2: subject name '../p1'"),
    "long subject": ([HEADER, f"{'p' * 200},T1,images/a.nii.gz,"], "use 128 letters at most"),
    "no name of a file": ([HEADER, f"p1,T1,{'x' * 300},"], "cannot be looked for (File name too long)"),
    "bad split": ([HEADER, "p1,T1,images/a.nii.gz,held-out"], "names the split 'held-out': use train, val, test"),
    "two splits": ([HEADER, "p1,T1,images/a.nii.gz,train", "p1,T2,images/b.nii.gz,val"], "puts p1 into train and val"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_TABLES)
def test_wrong_tables_are_refused(tmp_path, fault):
    lines, reason = BAD_TABLES[fault]
    assert reason.format(root=tmp_path) in refused(write_table(tmp_path, *lines))


def test_a_table_is_read_as_spreadsheets_write_it(tmp_path):
    """Headers, splits and masks in any case, lines that end in CR LF, an empty column at the end."""
    lines = ["Subject,CONTRAST,Path,Split,", "p1,t1,images/a.nii.gz,Train,", "p1,SEG,images/b.nii.gz,,",
             "p2,T1w,images/c.nii.gz,VALIDATION,", "p3,T1w,images/d.nii.gz,N/A,"]  # fmt: skip
    table = write_table(tmp_path, *(f"{line}\r" for line in lines))
    assert splits(table) == {"p1": "train", "p2": "val", "p3": None}
    assert set(find_subjects(table).subjects[0].masks) == {"seg"}
    assert find_subjects(table).contrasts == ("T1w",)


def test_files_that_are_no_tables_are_refused(tmp_path):
    assert "neither a folder nor a table" in refused(write_table(tmp_path, HEADER, name="scans.xlsx"))
    (tmp_path / "latin.csv").write_bytes("subject,contrast,path\nJürg,T1,a.nii".encode("latin-1"))
    assert "not a UTF-8 text table" in refused(tmp_path / "latin.csv")
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "scans.csv").write_bytes("subject,contrast,path\np1,T1,a.nii\n".encode(encoding))
        assert "UTF-16" in refused(tmp_path / "scans.csv")


def test_splits_json(tmp_path):
    brats(tmp_path, "a", "b", "c", "d")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a", "b"], "test": ["c"]}))
    assert splits(tmp_path) == {"a": "train", "b": "train", "c": "test", "d": None}


BAD_SPLITS = {
    "no subject": ({"train": ["a", "zz"]}, "names zz, which is no subject"),
    "two splits": ({"train": ["a"], "test": ["b", "a"]}, "puts a into train and test: keep a person in one split"),
    "bad name": ({"train": ["a"], "unseen": ["b"]}, "the split 'unseen'"),
    "not a dict": (["a"], "must be of the form"),
    "not a list": ({"train": "a"}, "must be of the form"),
    "not names": ({"train": [1]}, "must be of the form"),
}


@pytest.mark.parametrize("fault", BAD_SPLITS)
def test_wrong_splits_are_refused(tmp_path, fault):
    content, reason = BAD_SPLITS[fault]
    brats(tmp_path, "a", "b")
    (tmp_path / "splits.json").write_text(json.dumps(content))
    message = refused(tmp_path)
    assert reason in message
    assert "splits.json" in message


def test_broken_splits_are_refused(tmp_path):
    brats(tmp_path, "a")
    (tmp_path / "splits.json").write_text('{"train": ["a"')
    assert "not valid JSON" in refused(tmp_path)


def bids_sessions(root: Path) -> None:
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        touch(root, f"{name.replace('_', '/')}/anat/{name}_T1w.nii.gz")


def test_a_bids_subject_in_splits_stands_for_all_its_sessions(tmp_path):
    bids_sessions(tmp_path)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["sub-01"], "val": ["sub-02_ses-1"]}))
    assert splits(tmp_path) == {"sub-01_ses-1": "train", "sub-01_ses-2": "train", "sub-02_ses-1": "val"}
    file.write_text(json.dumps({"train": ["sub-01_ses-2"]}))
    assert splits(tmp_path) == {"sub-01_ses-1": None, "sub-01_ses-2": "train", "sub-02_ses-1": None}
    for one, other in (("sub-01", "sub-01_ses-2"), ("sub-01_ses-1", "sub-01_ses-2")):
        file.write_text(json.dumps({"train": [one], "test": [other]}))
        assert "puts sub-01 into train and test" in refused(tmp_path)


def test_time_points_of_one_brats_patient_stay_in_one_split(tmp_path):
    brats(tmp_path, "BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS2021_00005", "BraTS2021_00006")
    old = {"train": ["BraTS2021_00005"], "test": ["BraTS2021_00006"]}
    (tmp_path / "splits.json").write_text(json.dumps(old))
    assert splits(tmp_path)["BraTS2021_00006"] == "test"
    (tmp_path / "splits.json").write_text(
        json.dumps({"train": ["BraTS-GLI-00005-000"], "test": ["BraTS-GLI-00005-001"]})
    )
    assert "puts BraTS-GLI-00005 into train and test" in refused(tmp_path)


def test_participants_tsv_gives_splits(tmp_path):
    bids_sessions(tmp_path)
    participants = tmp_path / "participants.tsv"
    participants.write_text("participant_id\tage\nsub-01\t30\n")
    assert set(splits(tmp_path).values()) == {None}
    participants.write_text("participant_id\tage\tsplit\nsub-01\t30\ttrain\nsub-02\t40\tn/a\nsub-99\t50\ttest\n")
    assert splits(tmp_path) == {"sub-01_ses-1": "train", "sub-01_ses-2": "train", "sub-02_ses-1": None}
    participants.write_text("participant_id\tsplit\nsub-01\tunseen\n")
    assert "the split 'unseen'" in refused(tmp_path)
    participants.write_text("participant_id\tsplit\nsub-01\ttrain\n")
    (tmp_path / "splits.json").write_text('{"train": ["sub-01"]}')
    assert "both state splits" in refused(tmp_path)


def test_nothing_to_find(tmp_path):
    assert "does not exist" in refused(tmp_path / "none")
    message = refused(tmp_path)
    assert "is empty" in message
    for layout in ("BIDS", "BraTS", "IXI", "table"):
        assert layout in message
    touch(tmp_path, "scan.nii.gz", "p1/t1.nii.gz")
    assert "holds no known layout: looked for BIDS" in refused(tmp_path)


def test_two_layouts_in_one_folder_are_refused(tmp_path):
    brats(tmp_path, "a")
    touch(tmp_path, "IXI012-HH-1211-T1.nii.gz")
    assert "mixes the layouts BraTS and IXI" in refused(tmp_path)


def test_describe(tmp_path):
    brats(tmp_path, "patient-1")
    touch(tmp_path, "b/b_t1.nii.gz", "c/c_t2.nii.gz")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["b", "c"]}))
    assert describe(find_subjects(tmp_path)).splitlines() == [
        f"BraTS layout in {tmp_path}",
        "",
        "subject    T1w  T2w  FLAIR  T1ce  split",
        "b          ✓    –    –      –     train",
        "c          –    ✓    –      –     train",
        "patient-1  ✓    ✓    ✓      ✓     –",
        "3 in all   2    2    1      1",
        "",
        "stated splits: 2 train, 1 without",
    ]


def test_names_may_end_as_those_of_other_formats(tmp_path):
    touch(tmp_path / "bids", "sub-01/anat/sub-01_T1w.mgz", "sub-01/anat/sub-01_T2w.NRRD", "sub-02/anat/sub-02_T1w.mha",
          "sub-02/anat/sub-02_dseg.mgz")  # fmt: skip
    (tmp_path / "bids/sub-01/anat/sub-01_T1w.json").write_text("{}")
    listing = find_subjects(tmp_path / "bids")
    one, other = listing.subjects
    assert {name: file.name for name, file in one.scans.items()} == {"T1w": "sub-01_T1w.mgz", "T2w": "sub-01_T2w.NRRD"}
    assert one.sidecars["T1w"].name == "sub-01_T1w.json"
    assert (other.scans["T1w"].name, other.masks["tissue"].name) == ("sub-02_T1w.mha", "sub-02_dseg.mgz")
    assert listing.not_taken == ()
    touch(tmp_path / "brats", "case/case_t1.nrrd", "case/case_seg.mha", "case/case_t2.nii.gz")
    (case,) = find_subjects(tmp_path / "brats").subjects
    assert (set(case.scans), set(case.masks)) == ({"T1w", "T2w"}, {"seg"})
    touch(tmp_path / "ixi", "IXI012-HH-1211-T1.mgh", "IXI012-HH-1211-T2.mhd")
    assert find_subjects(tmp_path / "ixi").contrasts == ("T1w", "T2w")


def test_beside_nifti_other_formats_are_left_and_change_nothing(tmp_path):
    touch(
        tmp_path, "case/case_t1.nii.gz", "case/case_t1.mgz", "case/case_t1.mha", "case/case_t2.NII", "case/Case_t2.mgz"
    )
    listing = find_subjects(tmp_path)
    (case,) = listing.subjects
    assert {name: file.name for name, file in case.scans.items()} == {"T1w": "case_t1.nii.gz", "T2w": "case_t2.NII"}
    assert [one.path.name for one in listing.not_taken] == ["Case_t2.mgz", "case_t1.mgz", "case_t1.mha"]
    touch(tmp_path / "bids", "sub-01/anat/sub-01_acq-z_T1w.nii.gz", "sub-01/anat/sub-01_acq-a_T1w.mgz")
    (one,) = find_subjects(tmp_path / "bids").subjects
    assert one.scans["T1w"].name == "sub-01_acq-z_T1w.nii.gz"


def test_a_synthetic_scan_of_another_format_is_none(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.mgz")
    (tmp_path / "sub-01/anat/sub-01_T2w.json").write_text('{"synthetic": true}')
    assert find_subjects(tmp_path).contrasts == ("T1w",)


def test_a_brains_own_mask_is_found_in_every_layout(tmp_path):
    places = {
        "bids/sub-01/anat": ("sub-01_T1w", "sub-01_desc-brain_mask"), "brats/case1": ("case1_t1", "case1_brain"),
        "mine/p1": ("T1w", "brain"),
    }  # fmt: skip
    for place, names in places.items():
        (tmp_path / place).mkdir(parents=True)
        for name in names:
            (tmp_path / place / f"{name}.nii.gz").touch()
    for data, pattern in (("bids", None), ("brats", None), ("mine", "{subject}/{contrast}.nii.gz")):
        (one,) = find_subjects(tmp_path / data, pattern).subjects
        assert set(one.scans) == {"T1w"}
        assert set(one.masks) == {"brain"}
