"""A page a translated subject, its picture, and the paragraph for a methods section."""

import base64
import io
import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

import scansynth
from scansynth.data.planes import BANNER, SCALE, grey, middle_of, planes, rows_of
from scansynth.errors import InputError
from scansynth.methods import METHODS
from scansynth.report.methods_text import CONFORMAL, DCM2NIIX, N4, SIMPLE_ITK, SOLVERS, methods_text, run_text
from scansynth.report.subject_page import check_page, write_page, write_pages
from scansynth.synthesis.contrast_table import Entry, read_table
from scansynth.synthesis.folder import translate_cohort
from scansynth.training.train import train

TOLD = {
    "target": "T2w", "sources": {"T1w": "a.nii.gz"}, "method": "regression", "samples": 1, "unit": "arbitrary",
    "weights": {"sha256": "ab" * 32, "training_step": 7}, "versions": {"scansynth": "1", "torch": "2"},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(tiny(steps=2), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


@pytest.fixture(scope="module")
def translated(run, phantoms, tmp_path_factory):
    """Two subjects without T2w, the T1w of one of whom is damaged: the folder, and the listing."""
    place = tmp_path_factory.mktemp("pages")
    damaged = place / "damaged.nii.gz"
    damaged.write_bytes(b"no scan")
    own = [replace(one, scans={"T1w": one.scans["T1w"]}, sidecars={}) for one in phantoms.subjects[:2]]
    own[1] = replace(own[1], scans={"T1w": damaged})
    listing = replace(phantoms, subjects=tuple(own))
    out = place / "out"
    pages = []
    with pytest.raises(InputError, match="1 of 2 images could not be made"):
        translate_cohort(
            run, listing, out, missing=True, then=lambda rows: pages.extend(write_pages(out, listing, rows))
        )
    return out, listing, pages


def pictures_in(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    ]


def test_each_subject_has_a_page_that_shows_what_was_made(translated, run):
    out, listing, pages = translated
    assert pages == [out / f"{one.name}_synthetic.html" for one in listing.subjects]
    text = pages[0].read_text(encoding="utf-8")
    assert BANNER in text
    assert "Synthetic T2w, from T1w" in text
    assert run.weights["sha256"] in text
    assert str(out.parent) not in text
    (picture,) = pictures_in(pages[0])
    on_disk = out / listing.subjects[0].name / "figures" / f"{listing.subjects[0].name}_T2w_synthetic.png"
    assert Image.open(on_disk).text["Description"] == BANNER
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open(on_disk)))
    assert METHODS["regression"].citation in unescape(text)


def test_what_is_odd_is_said(translated):
    out, listing, pages = translated
    sidecar = next((out / listing.subjects[0].name).glob("*_synthetic.json"))
    odd = json.loads(sidecar.read_text())["odd"]
    assert any("[out-of-view]" in line for line in odd)  # the phantoms' slabs do not hold the whole head
    assert "[out-of-view]" in pages[0].read_text(encoding="utf-8")


def test_who_got_nothing_has_a_page_that_says_why(translated):
    text = translated[2][1].read_text(encoding="utf-8")
    assert "What was not made, and why" in text
    assert "damaged.nii.gz" in text
    assert not pictures_in(translated[2][1])


def test_a_page_of_somebody_else_stays(translated, caplog, tmp_path):
    out, listing, pages = translated
    pages[0].write_text("<html>mine</html>")
    write_pages(out, listing, read_table(out / "contrasts.tsv"))
    assert pages[0].read_text() == "<html>mine</html>"
    assert "no page of this program" in caplog.text
    pages[0].unlink()
    with pytest.raises(InputError, match="ends in"):
        check_page(tmp_path / "page.txt")


def test_damaged_sidecars_and_pictures_cost_the_page_and_no_more(translated, caplog):
    out, listing, pages = translated
    name = listing.subjects[0].name
    sidecar = next((out / name).glob("*_synthetic.json"))
    before = sidecar.read_text()
    rows = [Entry(name, "T2w", "synthetic", str(next((out / name).glob("*.nii.gz")).relative_to(out)))]
    sidecar.write_text(json.dumps({**json.loads(before), "weights": "none"}))
    assert write_pages(out, listing, rows) == []
    assert "a sidecar of its images is damaged" in caplog.text
    sidecar.write_text(before)
    picture = next((out / name / "figures").glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:100])
    assert write_pages(out, listing, rows) == [pages[0]]
    assert "There is no picture of it" in pages[0].read_text(encoding="utf-8")


def test_planes_lie_as_radiologists_read_them():
    shares = np.zeros((20, 30, 10))
    shares[15:, 25:, 8:] = 1  # right, anterior, superior
    axial, coronal, sagittal = (np.asarray(one)[..., 0] for one in planes(shares, (17, 27, 9), (1.0, 1.0, 2.0)))
    assert axial.shape == (round(30 * SCALE), round(20 * SCALE))
    assert coronal.shape == (round(20 * SCALE), round(20 * SCALE))  # 10 slices of 2 mm
    assert sagittal.shape == (round(20 * SCALE), round(30 * SCALE))
    for picture in (axial, coronal, sagittal):
        assert picture[0, 0] > 200
        assert picture[-1].max() < 50
    assert middle_of(np.zeros((4, 6, 8), bool)) == [2, 3, 4]
    assert grey(np.array([[[-3.0, 5.0]]]), 0, 10).tolist() == [[[0.0, 0.5]]]
    page = rows_of([("SYNTHETIC T2w", [Image.new("RGB", (60, 20))])], BANNER)
    assert np.asarray(page)[:16].max() > 200
    assert np.asarray(page)[-16:].max() > 200


def test_the_paragraph_cites_what_was_used_and_nothing_else():
    text = methods_text([TOLD])
    assert "Synthetic T2w images were made from T1w" in text.paragraph
    assert "[describe the training cohort" in text.paragraph
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", text.paragraph)}
    assert numbers == set(range(1, len(text.references) + 1))
    assert not {N4, SIMPLE_ITK, DCM2NIIX, CONFORMAL}.intersection(text.references)

    drawn = {**TOLD, "method": "ddpm", "samples": 8, "sampling_steps": 12, "sampler": "dpm-solver", "intervals": True}
    drawn |= {"brought_together": {"bias": "n4", "brain": "program", "registered": {"T2w": {}}}, "accepted": ["skull"]}
    both = methods_text([TOLD, TOLD, drawn], layout="DICOM")
    assert both.paragraph.count("images were made from") == 2
    assert {N4, SIMPLE_ITK, DCM2NIIX, CONFORMAL, SOLVERS["dpm-solver"]} <= set(both.references)
    assert len(set(both.references)) == len(both.references)
    for part in ("12 sampling steps", "8 samples", "[name and cite the program]", "overruled: skull"):
        assert part in both.paragraph
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", both.paragraph)}
    assert numbers == set(range(1, len(both.references) + 1))
    assert "one call" in methods_text([{**TOLD, "mean": True}]).paragraph
    assert "0.5 on the way" in methods_text([{**TOLD, "realism": 0.5}]).paragraph


def test_names_of_files_cannot_write_into_a_page(tmp_path):
    page = tmp_path / "p.html"
    write_page(page, "<script>alert(1)</script>", [({**TOLD, "sources": {"<b>T1w": "<i>"}}, None)])
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>" not in text


def test_the_paragraph_of_a_run_says_what_its_folder_says(run):
    text = run_text(run)
    parts = ["regression", "T1w, T2w of 4 people", "1 for validation and 1 for testing", "It took 2 steps of 2 samples"]
    parts += ["float32 (seed 0)", run.weights["sha256"][:12], "as acquired × as acquired"]
    assert [part for part in parts if part not in text.paragraph] == []
    assert METHODS["regression"].citation in text.references
    numbers = {f"[{number}]" for number in range(1, len(text.references) + 1)}
    assert set(re.findall(r"\[\d\]", text.paragraph)) == numbers
