"""The report: what is embedded, what is escaped, and the page itself in a browser, opened from disk."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import scansynth
from browser import Browser
from scansynth.data.datasets import read_image
from scansynth.evaluation.comparison import compare
from scansynth.evaluation.comparison_tables import write_comparison
from scansynth.evaluation.costs import CostFigures
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.plots import plot_subjects
from scansynth.evaluation.write import write_evaluation
from scansynth.metrics.cases import foreground
from scansynth.metrics.montage import BANNER, foreground_box
from scansynth.report.report import write_report
from scansynth.report.volumes import LEVELS, UNCERTAINTY_LEVELS, pack
from scansynth.training.train import train

HOSTILE = '</script><b id="broken">&'


@pytest.fixture(scope="module")
def runs(tiny, cohort, tmp_path_factory):
    """Two trained runs; one folder has a name that must be escaped, as far as a file system allows it."""
    folder = tmp_path_factory.mktemp("runs")
    loaded = []
    for method, name in (("regression", "plain"), ("syndiff", '"><img id=broken src=x onerror=alert(1)>&amp;')):
        train(tiny(method, validate_every=5), cohort, folder / method, device=torch.device("cpu"))
        shutil.move(folder / method, folder / name)
        loaded.append(scansynth.load(folder / name, "cpu"))
    return loaded


@pytest.fixture(scope="module")
def measured(runs, cohort, tmp_path_factory):
    """Folder, evaluation and comparison of both runs, the stochastic one with three samples."""
    out = tmp_path_factory.mktemp("measured")
    found = evaluate(runs, cohort, samples=3, protocol="syndiff")
    write_evaluation(found, out)
    comparison = compare(found.results, found.protocol, reference=None, costs=found.costs)
    write_comparison(comparison, out)
    plot_subjects(found.results, found.protocol, out)
    return out, found, comparison


@pytest.fixture(scope="module")
def page(measured, runs):
    """The report of the comparison."""
    out, found, comparison = measured
    return write_report(found, runs, out, comparison=comparison)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests."""
    one = Browser(tmp_path_factory.mktemp("browser"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def plain(measured, runs, tmp_path_factory):
    """A report without samples, whose subject has a name that must be escaped."""
    _, found, _ = measured
    results = [replace(result, subject=HOSTILE) for result in found.results]
    shown = [replace(one, subject=HOSTILE, deviations={}) for one in found.shown]
    without = replace(found, results=results, shown=shown, figures=(found.of(CostFigures),), samples=1)
    return write_report(without, runs, tmp_path_factory.mktemp("plain"))


@pytest.fixture
def viewer(browser, page):
    """The comparison's report, as it is when it is opened."""
    if browser.page == page:
        browser.run(RESET)
        browser.settle()
    else:
        browser.open(page)
    return browser


RESET = """
for (const one of document.querySelectorAll("#viewer-root input")) {
  if (one.type === "number" || ["slice", "window", "level"].includes(one.id)) continue;
  if (one.type === "radio" || one.type === "checkbox") {
    if (one.checked !== one.defaultChecked && (one.defaultChecked || one.type === "checkbox")) one.click();
  } else {
    one.value = one.defaultValue;
    one.dispatchEvent(new Event("input"));
  }
}
for (const [id, group] of [["choice-1", 0], ["choice-2", 1], ["choice-3", 2], ["compare-a", 1], ["compare-b", 2]]) {
  const select = document.getElementById(id);
  select.value = select.querySelectorAll("optgroup")[group].querySelector("option").value;
  for (const type of ["input", "change"]) select.dispatchEvent(new Event(type));
}
document.getElementById("case").selectedIndex = 0;
document.getElementById("case").dispatchEvent(new Event("change"));
document.getElementById("reset").click();
"""
"""Back to what the page was when it was opened."""


# ---- without a browser


def test_subjects_beyond_the_largest_size_are_named(measured, runs, tmp_path):
    _, found, _ = measured
    (first, *_) = found.shown
    again = replace(found, shown=[first, replace(first, subject="one too many")])
    size = pack([first]).size
    text = write_report(again, runs, tmp_path, largest=size + 1).read_text()
    assert "one too many is in the montages only" in re.sub(r"\s+", " ", text)
    assert len(pack(again.shown, size + 1).cases) == 1
    assert len(pack(again.shown, 2 * size + 100).cases) == 2


def test_the_page_says_what_was_measured(page, runs):
    text = page.read_text(encoding="utf-8")
    assert text.count(BANNER) >= 5
    assert "protocol syndiff 1" in text
    assert "Özbey et al., IEEE TMI 42(12), 2023" in text
    for run in runs:
        assert run.weights["sha256"][:16] in text
    assert "connect-src" not in text.split("</head>")[0]  # nothing is let through: default-src 'none' holds
    assert "default-src &#39;none&#39;" in text
    assert re.findall(r'<(?:link|img|script) (?:src|href)="(?!data:)', text.split("<script>")[0]) == []


# ---- in the browser


def test_the_page_opens_from_disk_without_request_or_complaint(viewer):
    assert viewer.complaints == []
    assert viewer.requests
    assert {url.split(":")[0] for url in viewer.requests} <= {"file", "data", "blob"}
    assert sum(url.startswith("file:") for url in viewer.requests) == 1
    viewer.run("document.querySelectorAll('img').forEach((one) => (one.loading = 'eager'))")
    viewer.wait("[...document.images].every((one) => one.complete)")
    assert viewer.run("document.images.length") >= 6
    assert viewer.run("[...document.images].every((one) => one.naturalWidth > 100)")
    refused = viewer.run(
        "new Promise((done) => {"
        "addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));"
        "fetch('http://127.0.0.1:9/').catch(() => {}); })"
    )
    assert refused == "connect-src"


def test_the_truth_is_seen_where_it_is(viewer, cohort):
    """Each plane of NiiVue's picture is the truth's own, not mirrored."""
    viewer.choose("#crosshair", "")
    case = json.loads(viewer.run("document.querySelector('#report-data').textContent"))["cases"][0]
    truth = read_image(cohort, case["subject"], case["target"], acceleration=[]).numpy()
    tissue = np.argwhere(truth > 0.2)
    middle = (tissue.min(0) + tissue.max(0)) / 2
    for plane, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        viewer.choose(f"input[name=plane][value={plane}]", "")
        seen = viewer.picture("#picture-3").mean(2)
        assert seen.max() > 200
        assert seen[-14:-4, -14:-4].max() < 5
        place = int(viewer.run("document.querySelector('#slice').value")) - 1
        start = round(middle[axis]) - case["shape"][axis] // 2
        expected = max(
            (np.take(truth, place + start + shift, axis).T[::-1, ::-1] for shift in (-1, 0, 1)),
            key=lambda one: likeness(seen, one),
        )
        assert likeness(seen, expected) > 0.93
        for mirrored in (expected[:, ::-1], expected[::-1]):
            assert likeness(seen, mirrored) < likeness(seen, expected) - 0.02


def likeness(seen, expected):
    """Correlation of a picture with a slice, both cut to the head: the largest piece that is bright."""
    cut = []
    for image in (seen, 255 * expected / expected.max()):
        pieces, _ = ndimage.label(image > 60)
        head = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
        rows, columns = (np.flatnonzero(head.any(axis)) for axis in (1, 0))
        inner = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cut.append(np.asarray(Image.fromarray(inner.astype(np.float32)).resize((48, 48))))
    return np.corrcoef(cut[0].ravel(), cut[1].ravel())[0, 1]


def test_layers_and_runs_change_the_picture(viewer):
    pictures = {"synthesis": viewer.picture("#picture-2")}
    viewer.run("document.querySelector('#picture-2').focus()")
    for number, kind in ((1, "source"), (3, "truth"), (4, "error"), (5, "uncertainty")):
        viewer.press(str(number))
        pictures[kind] = viewer.picture("#picture-2")
    viewer.press("2")
    viewer.press("2")
    first = viewer.run("document.querySelector('#choice-2').selectedOptions[0].text")
    pictures["one run"] = viewer.picture("#picture-2")
    viewer.press("2")
    assert viewer.run("document.querySelector('#choice-2').selectedOptions[0].text") != first
    pictures["other run"] = viewer.picture("#picture-2")
    viewer.press("e")
    pictures["with error"] = viewer.picture("#picture-2")
    viewer.press("u")
    pictures["with uncertainty"] = viewer.picture("#picture-2")
    # The regression draws one sample: it has no uncertainty, and says so.
    said = viewer.run("document.querySelector('#picture-2').parentElement.innerText")
    assert ("no uncertainty" in said) == (
        "plain" in viewer.run("document.querySelector('#choice-2').selectedOptions[0].text")
    )
    assert BANNER in said
    names = list(pictures)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if {name, other} != {"synthesis", "one run"} and {name, other} != {"synthesis", "other run"}:
                assert np.abs(pictures[name] - pictures[other]).mean() > 1, (name, other)
    # Colours are for errors and uncertainties alone.
    inner = {name: picture[24:-30, 24:-24] for name, picture in pictures.items()}
    colourful = {name: np.ptp(picture, axis=2).mean() > 2 for name, picture in inner.items()}
    viewer.choose("#crosshair", "")
    assert np.ptp(viewer.picture("#picture-3")[24:-30, 24:-24], axis=2).mean() < 0.5
    assert colourful["error"]
    assert colourful["uncertainty"]
    assert colourful["with error"]


def test_pictures_move_together(viewer):
    before = [viewer.picture(f"#picture-{number}") for number in (1, 2, 3)]
    text = viewer.run("document.querySelector('#slice-text').value")
    viewer.run("document.querySelector('#picture-1').focus()")
    viewer.press("PageUp")
    assert viewer.run("document.querySelector('#slice-text').value") != text
    after = [viewer.picture(f"#picture-{number}") for number in (1, 2, 3)]
    assert all(np.abs(old - new).mean() > 1 for old, new in zip(before, after, strict=True))
    place = viewer.run("document.querySelector('#place').textContent")
    viewer.press("ArrowLeft")
    assert viewer.run("document.querySelector('#place').textContent") != place
    # A click in one picture moves the crosshair of all, and of the comparison.
    compare_before = viewer.picture("#compare")
    others = [viewer.picture(f"#picture-{number}") for number in (1, 2)]
    x, y = viewer.corner("#picture-3")
    for kind in ("mousePressed", "mouseReleased"):
        viewer("Input.dispatchMouseEvent", type=kind, x=x + 150, y=y + 120, button="left", clickCount=1)
    viewer.settle()
    assert np.abs(viewer.picture("#compare") - compare_before).max() > 50
    for number, old in zip((1, 2), others, strict=True):
        assert np.abs(viewer.picture(f"#picture-{number}") - old).max() > 50


def test_window_and_level_act_on_truth_and_synthesis_alike(viewer):
    before = [viewer.picture(f"#picture-{number}").mean() for number in (2, 3)]
    viewer.choose("#level", "0.15")
    after = [viewer.picture(f"#picture-{number}").mean() for number in (2, 3)]
    assert all(new > old + 5 for old, new in zip(before, after, strict=True))
    width = viewer.run("document.querySelector('#window-number').value")
    x, y = viewer.corner("#picture-3")
    viewer("Input.dispatchMouseEvent", type="mousePressed", x=x + 90, y=y + 90, button="right", buttons=2, clickCount=1)
    viewer("Input.dispatchMouseEvent", type="mouseMoved", x=x + 30, y=y + 90, button="right", buttons=2)
    viewer("Input.dispatchMouseEvent", type="mouseReleased", x=x + 30, y=y + 90, button="right", clickCount=1)
    viewer.settle()
    assert float(viewer.run("document.querySelector('#window-number').value")) < float(width)
    viewer.press("r")
    reset = [viewer.picture(f"#picture-{number}").mean() for number in (2, 3)]
    np.testing.assert_allclose(reset, before, atol=0.5)


def test_the_values_at_the_crosshair_are_those_of_the_volumes(viewer, measured):
    shown = measured[1].shown[0]
    viewer.run("document.querySelector('#picture-2').focus()")
    viewer.press("ArrowUp")
    rows = viewer.run("[...document.querySelectorAll('#values tbody tr')].map((row) => row.innerText.split('\\t'))")
    figures = {name: [float(value) if value else None for value in values] for name, *values in rows}
    box = foreground_box(np.logical_or.reduce([foreground(one) for one in (shown.truth, *shown.sources.values())]))
    text = viewer.run("document.querySelector('#place').textContent")
    voxel = [int(number) for number in re.findall(r"\d+", text)[:3]]
    place = tuple(part.start + number - 1 for part, number in zip(box, voxel, strict=True))
    step = max(float(one.max()) for one in (shown.truth, *shown.syntheses.values())) / LEVELS
    assert shown.truth[place] > 0.1
    assert figures[f"Truth: {shown.target}"][0] == pytest.approx(shown.truth[place], abs=0.51 * step + 0.0005)
    for name, volume in shown.syntheses.items():
        value, error, *spread = figures[f"Synthesis: {name}"]
        assert value == pytest.approx(volume[place], abs=0.51 * step + 0.0005)
        assert error == pytest.approx(abs(volume[place] - shown.truth[place]), abs=1.02 * step + 0.0005)
        if name in shown.deviations:
            top = float(shown.deviations[name][box].max())
            assert spread[0] == pytest.approx(
                shown.deviations[name][place], abs=0.51 * top / UNCERTAINTY_LEVELS + 0.0005
            )


def test_slider_and_checkerboard(viewer):
    middle = viewer.picture("#compare")
    viewer.choose("#share", "0")
    second = viewer.picture("#compare")
    viewer.choose("#share", "100")
    first = viewer.picture("#compare")
    assert np.abs(first - second).mean() > 1
    half = middle.shape[1] // 2
    inside = slice(60, -60)
    # To the left of the slider the first image, to the right the second one.
    np.testing.assert_allclose(middle[inside, 20 : half - 20], first[inside, 20 : half - 20], atol=3)
    np.testing.assert_allclose(middle[inside, half + 20 : -20], second[inside, half + 20 : -20], atol=3)
    viewer.choose("input[name=mode][value=checkerboard]", "")
    coarse = viewer.picture("#compare")
    viewer.choose("#tile", "3")
    fine = viewer.picture("#compare")
    assert np.abs(coarse - fine).mean() > 0.5
    assert min(np.abs(fine - one).mean() for one in (first, second)) > 0.5
    assert viewer.run("document.querySelector('#share-label').hidden")


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(viewer):
    roles = {"button", "combobox", "slider", "radio", "checkbox", "spinbutton", "link", "application", "textbox"}
    nodes = viewer("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    kinds = {node["role"]["value"] for node in controls}
    assert {"combobox", "slider", "radio", "checkbox", "spinbutton", "button", "application", "link"} <= kinds
    assert [node for node in controls if not node.get("name", {}).get("value", "").strip()] == []
    pictures = [node for node in nodes if not node["ignored"] and node["role"]["value"] in ("image", "img")]
    assert pictures
    assert all(node.get("name", {}).get("value") for node in pictures)
    viewer.run("document.querySelector('#case').focus()")
    reached = []
    for _ in range(25):
        viewer("Input.dispatchKeyEvent", type="rawKeyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        viewer("Input.dispatchKeyEvent", type="keyUp", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(viewer.run("document.activeElement.id || document.activeElement.name"))
    expected = ["plane", "slice", "zoom", "crosshair", "smooth", "window", "level", "reset", "overlay", "opacity"]
    expected += ["choice-1", "picture-1", "choice-2", "picture-2", "choice-3", "picture-3", "compare-a", "compare-b"]
    assert [name for name in reached if name in expected] == expected


def test_names_are_shown_as_they_are_and_do_nothing(browser, plain, runs):
    if browser.page != plain:
        browser.open(plain)
    assert browser.complaints == []
    assert browser.run("document.querySelector('#broken') === null")
    assert browser.run("document.querySelector('#case').options[0].text").startswith(HOSTILE)
    label = runs[1].folder.name
    assert label in browser.run("document.querySelector('#choice-2').textContent")
    assert label in browser.run("document.querySelector('#figures').textContent")
    assert HOSTILE in browser.run("document.querySelector('#subjects').textContent")


def test_without_samples_there_is_no_uncertainty(browser, plain):
    if browser.page != plain:
        browser.open(plain)
    assert browser.run("document.querySelector('input[name=overlay][value=uncertainty]').disabled")
    assert "Uncertainty" not in browser.run("document.querySelector('#choice-2').textContent")
    assert browser.run("document.querySelector('section#uncertainty') === null")
    browser.run("document.querySelector('#picture-2').focus()")
    before = browser.picture("#picture-2")
    browser.press("5")
    browser.press("u")
    np.testing.assert_allclose(browser.picture("#picture-2"), before, atol=2)


def test_without_volumes_there_is_no_viewer(measured, runs, tmp_path):
    _, found, _ = measured
    text = write_report(replace(found, shown=[]), runs, tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert 'href="#viewer"' not in text
    assert BANNER in text


def test_without_webgl_the_comparison_still_works(page, tmp_path):
    browser = Browser(tmp_path, webgl=False)
    try:
        browser.open(page)
        assert "WebGL2" in browser.run("document.querySelector('#notice').textContent")
        assert browser.run("getComputedStyle(document.querySelector('#panels')).display") == "none"
        assert browser.picture("#compare")[60:-60, 60:-60].std() > 20
        before = browser.picture("#compare")
        browser.choose("#slice", "3")
        assert np.abs(browser.picture("#compare") - before).mean() > 1
    finally:
        browser.close()
