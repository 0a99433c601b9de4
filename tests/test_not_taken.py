"""Image files that no layout takes: all are listed, with the reason and what they may be."""

import io
import json
import os
from pathlib import Path

import pytest

from scansynth.data.layouts import Listing, find_subjects, told


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def scan(subject, *contrasts, session=""):
    place, visit = (f"{subject}/{session}/anat", f"{subject}_{session}") if session else (f"{subject}/anat", subject)
    return [f"{place}/{visit}_{contrast}.nii.gz" for contrast in contrasts]


def left(listing):
    """Path from the data folder → what is said of the file."""
    return {str(one.path.relative_to(listing.root)): one for one in listing.not_taken}


def taken(listing):
    return {subject.name: set(subject.scans) for subject in listing.subjects}


def test_names_match_in_any_case(tmp_path):
    touch(tmp_path / "bids", *scan("sub-01", "T1w"), "sub-01/anat/sub-01_T2w.NII.GZ", "sub-01/Anat/SUB-01_flair.Nii",
          "Sub-02/anat/Sub-02_t1W.nii.gz", "sub-03/SES-1/anat/sub-03_SES-1_pdW.nii.gz")  # fmt: skip
    listing = find_subjects(tmp_path / "bids")
    assert taken(listing) == {"sub-01": {"T1w", "T2w", "FLAIR"}, "Sub-02": {"T1w"}, "sub-03_SES-1": {"PDw"}}
    touch(
        tmp_path / "brats",
        "case/case_T1.nii.gz",
        "case/case_T1CE.NII.GZ",
        "case/Case-T2-FLAIR.nii",
        "case/case_SEG.nii",
    )
    listing = find_subjects(tmp_path / "brats")
    assert taken(listing) == {"case": {"T1w", "T1ce", "FLAIR"}}
    assert set(listing.subjects[0].masks) == {"seg"}
    touch(tmp_path / "ixi", "IXI012-HH-1211-t1.nii.gz", "sub/ixi012-hh-1211-Pd.NII")
    listing = find_subjects(tmp_path / "ixi")
    assert taken(listing) == {"IXI012-HH-1211": {"T1w", "PDw"}}
    for folder in ("bids", "brats", "ixi"):
        assert find_subjects(tmp_path / folder).not_taken == ()


def test_a_sidecar_belongs_to_a_scan_in_any_case(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.NII.GZ")
    (tmp_path / "sub-01/anat/sub-01_T1w.json").write_text("{}")
    assert set(find_subjects(tmp_path).subjects[0].sidecars) == {"T1w"}


def test_contrasts_go_by_the_names_that_people_use(tmp_path):
    touch(tmp_path, *scan("sub-01", "MPRAGE", "T2-FLAIR"), *scan("sub-02", "UNIT1", "T1_post", "run-1_T2"),
          *scan("sub-03", "T1gd", "ce-gad_MPRAGE"))  # fmt: skip
    listing = find_subjects(tmp_path)
    assert taken(listing) == {"sub-01": {"T1w", "FLAIR"}, "sub-02": {"T1w", "T1ce", "T2w"}, "sub-03": {"T1ce"}}
    touch(tmp_path / "brats", *(f"X/X_{kind}.nii.gz" for kind in ("T1", "T1GD", "T2", "FLAIR", "t1c_bias")))
    listing = find_subjects(tmp_path / "brats")
    assert taken(listing) == {"X": {"T1w", "T1ce", "T2w", "FLAIR"}}
    assert list(left(listing)) == ["X/X_t1c_bias.nii.gz"]


def test_the_own_names_of_a_layout_come_before_others(tmp_path):
    touch(tmp_path / "bids", *scan("sub-01", "MPRAGE", "acq-x_T1w"))
    touch(tmp_path / "brats", "X/X_t1.nii.gz", "X/X_T1_MPRAGE.nii.gz")
    for folder, name in (("bids", "sub-01_acq-x_T1w.nii.gz"), ("brats", "X_t1.nii.gz")):
        listing = find_subjects(tmp_path / folder)
        assert listing.subjects[0].scans["T1w"].name == name
        (other,) = listing.not_taken
        assert "MPRAGE" in other.path.name
        assert (other.subject, other.contrasts, other.scan) == (listing.subjects[0].name, ("T1w",), True)


NAMED = {
    # the folder and the name → subject, contrasts, whether it may be a scan, a part of the reason
    "sub-01/anat/sub-01_T1w_Eq_1.nii.gz": ("sub-01", ("T1w",), True, "name or place unlike BIDS"),
    "sub-01/sub-01_T2w.nii.gz": ("sub-01", ("T2w",), True, "name or place unlike BIDS"),
    "sub-01_T2w.nii.gz": ("sub-01", ("T2w",), True, "name or place unlike BIDS"),
    "sub01/anat/sub01_FLAIR.nii.gz": ("sub-01", ("FLAIR",), True, "name or place unlike BIDS"),
    "sub-77/anat/sub-77_T2w_1.nii.gz": ("sub-77", ("T2w",), True, "name or place unlike BIDS"),
    "extra/T2.nii.gz": (None, ("T2w",), True, "name or place unlike BIDS"),
    "sub-01/anat/sub-01_acq-cor_SPACE.nii.gz": ("sub-01", ("T1w", "T2w", "PDw", "FLAIR"), True, "as several contrasts"),
    "sub-01/anat/sub-01_PDT2.nii.gz": ("sub-01", ("T2w", "PDw"), True, "as several contrasts"),
    "sub-01/anat/sub-01_ce-gad_FLAIR.nii.gz": ("sub-01", ("FLAIR",), True, "contrast-enhanced"),
    "sub-01/anat/sub-01_odd.nii.gz": ("sub-01", (), True, "no contrast in its name"),
    "sub-01/anat/sub-01_T1w.mgz": ("sub-01", ("T1w",), True, "named as a NIfTI file beside it"),
    "sub-01/anat/sub-01_T1W.MHA": ("sub-01", ("T1w",), True, "named as a NIfTI file beside it"),
    "sub-01/anat/sub-01_acq-b_T1w.mgz": ("sub-01", ("T1w",), True, "further file of a contrast"),
    "sub-01/T2/image.NRRD": ("sub-01", ("T2w",), True, "name or place unlike BIDS"),
    "sub-01/anat/sub-01_PDw.mha.gz": ("sub-01", ("PDw",), True, ".mha is not read: convert"),
    "sub-01/anat/sub-01_T1w_mask.mgz": ("sub-01", ("T1w",), False, "mask"),
    "sub-01/anat/._sub-01_FLAIR.mgz": ("sub-01", ("FLAIR",), False, "hidden"),
    "sub-01/anat/sub-01_PDw.hdr": ("sub-01", ("PDw",), True, ".hdr is not read: convert"),
    "sub-01/anat/sub-01_PDw.mnc": ("sub-01", ("PDw",), True, ".mnc is not read: convert"),
    "sub-01/anat/sub-01_desc-preproc_T2w.nii.gz": ("sub-01", ("T2w",), False, "derivative"),
    "derivatives/x/sub-01/anat/sub-01_T2w.nii.gz": ("sub-01", ("T2w",), False, "derivative"),
    "sub-01/anat/sub-01_desc-synthetic_T2w.nii.gz": ("sub-01", ("T2w",), False, "made by scansynth"),
    "sub-01/anat/sub-01_T2w_synthetic.nii.gz": ("sub-01", ("T2w",), False, "made by scansynth"),
    "sub-01/anat/sub-01_T1w_mask.nii.gz": ("sub-01", ("T1w",), False, "mask"),
    "sub-01/anat/sub-01_label-WM_probseg.nii.gz": ("sub-01", (), False, "mask"),
    "sub-01/anat/sub-01_lesion.nii.gz": ("sub-01", (), False, "mask"),
    "sub-01/anat/sub-01_part-phase_T2w.nii.gz": ("sub-01", ("T2w",), False, "phase"),
    "sub-01/anat/sub-01_T2w_ph.nii.gz": ("sub-01", ("T2w",), False, "phase"),
    "sub-01/anat/sub-01_inv-1_MP2RAGE.nii.gz": ("sub-01", ("T1w",), False, "single inversion"),
    "sub-01/anat/sub-01_localizer.nii.gz": ("sub-01", (), False, "localizer"),
    "sub-01/anat/sub-01_T1map.nii.gz": ("sub-01", ("T1w",), False, "map"),
    "sub-01/func/sub-01_task-T2_bold.nii.gz": ("sub-01", (), False, "another kind"),
    "sub-01/dwi/sub-01_dwi.nii.gz": ("sub-01", (), False, "another kind"),
    "sub-01/anat/sub-01_angio.nii.gz": ("sub-01", (), False, "another kind"),
    "sub-01/anat/._sub-01_FLAIR.nii.gz": ("sub-01", ("FLAIR",), False, "hidden"),
    "MNI152_T1_1mm.nii.gz": (None, ("T1w",), False, "template"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_every_image_file_that_is_not_taken_is_listed_with_the_reason(tmp_path, name):
    touch(tmp_path, *scan("sub-01", "T1w"), *scan("sub-02", "T2w"), name)
    listing = find_subjects(tmp_path)
    assert taken(listing) == {"sub-01": {"T1w"}, "sub-02": {"T2w"}}
    ((path, one),) = left(listing).items()
    subject, contrasts, possible, why = NAMED[name]
    assert (path, one.subject, one.contrasts, one.scan) == (name, subject, contrasts, possible)
    assert why in one.why
    assert len(told(listing)) == 2
    assert name in told(listing)[1]


def test_other_files_are_not_listed(tmp_path):
    touch(tmp_path, *scan("sub-01", "T1w"), "sub-01/anat/sub-01_T1w.json", "README", "code/x.py",
          ".git/annex/a_T1w.nii.gz", "sub-01/dwi/sub-01_dwi.bval")  # fmt: skip
    listing = find_subjects(tmp_path)
    assert listing.not_taken == ()
    assert told(listing) == []


@pytest.mark.parametrize(
    "files",
    [
        ("T2_TSE/a.dcm", "T2_TSE/b.DCM"), ("T2_TSE/1.IMA",), ("T2_TSE/DICOM/0001", "T2_TSE/DICOM/0002"),
        ("T2_TSE/IM-0001",), ("T2_TSE/MR.1.3.12.2.1107.5.2", "T2_TSE/DICOMDIR"), ("T2_TSE/1.2.840.113619.2.1",),
    ],
)  # fmt: skip
def test_dicom_is_one_entry_a_folder(tmp_path, files):
    touch(tmp_path, *scan("sub-01", "T1w"), *(f"sub-01/raw/{file}" for file in files))
    (one,) = find_subjects(tmp_path).not_taken
    assert one.path == (tmp_path / "sub-01/raw" / files[0]).parent
    assert (one.subject, one.contrasts, one.scan) == ("sub-01", ("T2w",), True)
    assert "dcm2niix" in one.why


def test_sourcedata_are_scans_only_if_they_say_of_which_contrast(tmp_path):
    touch(tmp_path, *scan("sub-001", "T1w"), "sourcedata/001/FLAIR/1.dcm", "sourcedata/001/series7/1.dcm")
    said, unsaid = find_subjects(tmp_path).not_taken
    assert (said.subject, said.contrasts, said.scan) == ("sub-001", ("FLAIR",), True)
    assert (unsaid.subject, unsaid.scan) == ("sub-001", False)


def test_further_files_of_one_contrast_are_listed(tmp_path):
    touch(tmp_path, *scan("sub-01", "run-1_T1w", "run-2_T1w", "acq-b_T1w"))
    listing = find_subjects(tmp_path)
    assert [one.path.name for one in listing.not_taken] == ["sub-01_run-1_T1w.nii.gz", "sub-01_run-2_T1w.nii.gz"]
    assert all((one.subject, one.contrasts, one.scan) == ("sub-01", ("T1w",), True) for one in listing.not_taken)
    assert "keep one" in listing.not_taken[0].why


def test_an_image_whose_sidecar_says_synthetic_is_no_scan(tmp_path):
    """`translate -o` lets people name it as they like."""
    touch(tmp_path, *scan("sub-01", "T1w", "T2w", "FLAIR"))
    for contrast, content in {"T2w": {"synthetic": True}, "FLAIR": {"EchoTime": 0.1}}.items():
        (tmp_path / f"sub-01/anat/sub-01_{contrast}.json").write_text(json.dumps(content))
    listing = find_subjects(tmp_path)
    assert taken(listing) == {"sub-01": {"T1w", "FLAIR"}}
    (one,) = listing.not_taken
    assert (one.path.name, one.scan) == ("sub-01_T2w.nii.gz", False)
    assert "made by scansynth" in one.why


def test_brats_and_ixi_list_what_they_leave(tmp_path):
    touch(tmp_path / "brats", "HGG/a/a_t1.nii.gz", "HGG/a/other_flair.nii.gz", "HGG/a/a_t2_1.nii.gz", "b/b_seg.nii.gz",
          "HGG/a/deep/a_t2.nii.gz")  # fmt: skip
    listing = find_subjects(tmp_path / "brats")
    said = {name: (one.subject, one.contrasts, one.scan) for name, one in left(listing).items()}
    assert said == {
        "HGG/a/a_t2_1.nii.gz": ("a", ("T2w",), True),
        "HGG/a/deep/a_t2.nii.gz": ("a", ("T2w",), True),
        "HGG/a/other_flair.nii.gz": ("a", ("FLAIR",), True),
        "b/b_seg.nii.gz": ("b", (), False),
    }
    touch(tmp_path / "ixi", "IXI012-HH-1211-T1.nii.gz", "IXI012-HH-1211-T2-1.nii.gz", "IXI002-Guys-0828-MRA.nii.gz",
          "IXI002-Guys-0828-DTI-00.nii.gz")  # fmt: skip
    listing = find_subjects(tmp_path / "ixi")
    said = {name: ((one.subject or "").lower(), one.contrasts, one.scan) for name, one in left(listing).items()}
    assert said == {
        "IXI002-Guys-0828-DTI-00.nii.gz": ("ixi002-guys-0828", (), False),
        "IXI002-Guys-0828-MRA.nii.gz": ("ixi002-guys-0828", (), False),
        "IXI012-HH-1211-T2-1.nii.gz": ("ixi012-hh-1211", ("T2w",), True),
    }


def test_ixi_in_folders_of_subjects_is_no_brats(tmp_path):
    touch(tmp_path, "IXI012-HH-1211/IXI012-HH-1211-T1.nii.gz", "IXI012-HH-1211/IXI012-HH-1211-T2.nii.gz")
    listing = find_subjects(tmp_path)
    assert (listing.layout, taken(listing)) == ("IXI", {"IXI012-HH-1211": {"T1w", "T2w"}})


def test_a_scan_of_bids_outside_anat_is_no_second_layout(tmp_path):
    touch(tmp_path, *scan("sub-01", "T1w"), "sub-02/sub-02_t1.nii.gz", "derivatives/sub-01/sub-01_T1w.nii.gz")
    listing = find_subjects(tmp_path)
    assert (listing.layout, taken(listing)) == ("BIDS", {"sub-01": {"T1w"}})
    assert [one.subject for one in listing.not_taken] == ["sub-01", "sub-02"]


def test_may_be_asks_about_the_subject_and_its_visits(tmp_path):
    touch(
        tmp_path,
        *scan("sub-01", "T1w", "T2w_1", session="ses-1"),
        *scan("sub-01", "T1w", session="ses-2"),
        "sub-01/ses-2/anat/sub-01_ses-2_odd.nii.gz",
        "sub-01/sub-01_FLAIR.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR_mask.nii.gz",
        *scan("sub-02", "T1w"),
        "sub-3/anat/sub-3_T1w.nii.gz",
        "extra/PD.nii.gz",
        "extra/odd.nii.gz",
    )
    listing = find_subjects(tmp_path)

    def may_be(subject, contrast):
        return [one.path.name for one in listing.may_be(subject, contrast)]

    assert may_be("sub-01_ses-1", "T2w") == ["sub-01_ses-1_T2w_1.nii.gz"]
    assert may_be("sub-01_ses-2", "T2w") == ["sub-01_ses-2_odd.nii.gz"]
    assert may_be("sub-01_ses-1", "FLAIR") == ["sub-01_FLAIR.nii.gz"]
    assert may_be("sub-01_ses-2", "FLAIR") == ["sub-01_ses-2_odd.nii.gz", "sub-01_FLAIR.nii.gz"]
    assert may_be("sub-02", "FLAIR") == []
    assert may_be("sub-02", "PDw") == ["PD.nii.gz"]
    assert may_be("SUB-02", "PDw") == ["PD.nii.gz"]


def test_told_is_short(tmp_path):
    touch(tmp_path, *scan("sub-01", "T1w"), *scan("sub-01", *(f"T2w_Eq_{number}" for number in range(1, 6))),
          "sub-01/anat/sub-01_T1w_mask.nii.gz", "sub-01/dicom/1.dcm")  # fmt: skip
    head, names, dicom, masks = told(find_subjects(tmp_path))
    assert head == f"image files in {tmp_path} that are not taken: 7, possible scans: 6"
    assert names.startswith(
        "  5: name or place unlike BIDS (sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz): rename or move"
    )
    assert names.endswith(
        "_Eq_1.nii.gz, sub-01/anat/sub-01_T2w_Eq_2.nii.gz, sub-01/anat/sub-01_T2w_Eq_3.nii.gz and 2 more)"
    )
    assert dicom.endswith("convert to NIfTI with dcm2niix (sub-01/dicom)")
    assert masks.startswith("  1: mask")


def test_a_table_names_what_is_meant(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "scans.csv").write_text("subject,contrast,path\np1,T1w,a.nii.gz\n")
    assert find_subjects(tmp_path / "scans.csv").not_taken == ()
    assert Listing("table", tmp_path, (), ()).may_be("p1", "T1w") == []


def test_links_are_followed_but_neither_in_circles_nor_told_twice(tmp_path):
    touch(tmp_path, *scan("sub-01", "T1w"), "store/T2.nii.gz")
    anat = tmp_path / "sub-01/anat"
    (anat / "up").symlink_to(tmp_path)
    (anat / "sub-01_T2w.nii.gz").symlink_to(tmp_path / "store/T2.nii.gz")
    (tmp_path / "latest").symlink_to(anat)
    listing = find_subjects(tmp_path)
    assert taken(listing) == {"sub-01": {"T1w", "T2w"}}
    assert listing.not_taken == ()


def test_folders_that_are_not_looked_into_are_said(tmp_path, monkeypatch):
    touch(
        tmp_path, *scan("sub-01", "T1w"), "sub-01/1/2/3/4/5/T2.nii.gz", "sub-01/1/2/3/4/5/6/T2.nii.gz", "sub-02/anat/x"
    )
    scandir = os.scandir

    def closed(path):
        if Path(path) == tmp_path / "sub-02":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    listing = find_subjects(tmp_path)
    assert list(left(listing)) == ["sub-01/1/2/3/4/5/6", "sub-01/1/2/3/4/5/T2.nii.gz", "sub-02"]
    deep, _, shut = listing.not_taken
    assert "lies deeper than 6 folders" in deep.why
    assert "cannot be opened (Permission denied)" in shut.why
    assert shut.subject == "sub-02"


def test_a_folder_without_a_layout_says_what_is_there(tmp_path):
    touch(tmp_path, "case/T1.nii.gz", "raw/1.dcm")
    with pytest.raises(
        ValueError, match=r"there are 1 image files, as case/T1.nii.gz; there is DICOM in 1 folders, as"
    ):
        find_subjects(tmp_path)


def test_each_folder_is_looked_into_once_and_no_image_is_opened(tmp_path, monkeypatch):
    touch(tmp_path, *(file for number in range(20) for file in scan(f"sub-{number:02}", "T1w", "T2w_1", "T1w_mask")))
    touch(tmp_path, "sub-00/anat/sub-00_T1w.json")
    scandir, seen, opened = os.scandir, [], []
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(str(path)) or scandir(path))
    for module in (os, io):  # users_files opens by the one, pathlib by the other
        ours = module.open

        def noted(path, *how, ours=ours, **more):
            if isinstance(path, str | Path):
                opened.append(Path(path))
            return ours(path, *how, **more)

        monkeypatch.setattr(module, "open", noted)
    assert len(find_subjects(tmp_path).not_taken) == 40
    assert len(seen) == len(set(seen)) == 1 + 20 + 20
    assert {path.suffix for path in opened} == {".json"}
