"""Names of contrasts, and what the names of files say of them."""

import pytest

from scansynth.data.contrasts import contrasts_in, known_name, may_mean, standard_name
from scansynth.errors import InputError

KNOWN = {
    "T1w": ("T1", "t1W", "T1n", "MPRAGE", "MP-RAGE", "MP2RAGE", "UNIT1", "T1_MPRAGE", "T1_pre", "BRAVO", "3D-T1"),
    "T1ce": ("T1c", "T1post", "T1wCE", "T1gd", "T1_Gd", "T1-CE", "T1+C", "t1ce", "T1w_post", "post-T1"),
    "FLAIR": ("T2FLAIR", "t2-flair", "flair", "T2_Flair", "t2f", "FLAIR"),
    "T2w": ("T2", "T2W", "t2-weighted", "T2_TSE", "T2_SPACE"),
    "PDw": ("PD", "pdw"),
    "T2starw": ("T2star", "T2*", "t2starw"),
    "CT": ("ct", "Ct"),
}


@pytest.mark.parametrize("standard", KNOWN)
def test_names_are_known_in_any_case(standard):
    for name in KNOWN[standard]:
        assert standard_name(name) == known_name(name) == standard, name
        assert contrasts_in(name) == (standard,), name


@pytest.mark.parametrize("name", ["SPACE", "cube", "PDT2", "FLASH", "VIBE", "TSE"])
def test_ambiguous_names_are_asked_about(name):
    assert len(may_mean(name)) > 1
    assert known_name(name) is None
    with pytest.raises(InputError, match=f"'{name}' may be .* or .*: write which it is"):
        standard_name(name)


@pytest.mark.parametrize("name", ["DIXON-fat", "MR", "T1map", "GRE", "my-space"])
def test_other_names_are_kept(name):
    assert standard_name(name) == name


SAID = {
    "AX_T2_FLAIR_2": ("FLAIR",),
    "T1w_Eq_1": ("T1w",),
    "sag_t1_mprage_iso": ("T1w",),
    "axT2": ("T2w",),
    "3DFLAIR": ("FLAIR",),
    "T1_axial_Gd": ("T1w", "T1ce"),
    "acq-cor_SPACE": ("T1w", "T2w", "PDw", "FLAIR"),
    "PDT2": ("T2w", "PDw"),
    "pat1": (),
    "subject2": (),
    "t10": (),
    "scan": (),
}


@pytest.mark.parametrize("text", SAID)
def test_what_the_name_of_a_file_says(text):
    assert contrasts_in(text) == SAID[text]
