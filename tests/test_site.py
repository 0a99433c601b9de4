"""The built pages: complete, and readable on a wide screen and on a telephone's."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from browser import Browser
from scansynth.cli import VERBS

ROOT = Path(__file__).parent.parent
REFERENCE = ("scansynth", "scansynth.diffusion", "scansynth.metrics", "scansynth.networks")
WIDER = """[...document.querySelectorAll('article *')].filter(one =>
    one.getBoundingClientRect().right > window.innerWidth + 1
    && !one.closest('.md-typeset__scrollwrap, pre, .highlight')).map(one => one.textContent.slice(0, 60))"""
"""What reaches beyond the page and does not scroll by itself."""


def test_every_page_is_in_the_sites_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert re.search(rf"[ ]{re.escape(page.relative_to(ROOT / 'docs').as_posix())}$", text, re.M), page


def links_of(page):
    """Markdown files of the repository that a page leads to."""
    targets = re.findall(r"\]\(([^)#\s]+\.md)[)#]", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


def test_every_page_is_two_clicks_from_the_readme():
    once = links_of(ROOT / "README.md")
    reached = once.union(*map(links_of, once))
    assert {"tutorial.md", "CHANGELOG.md"} <= {page.name for page in once}
    assert not {*(ROOT / "docs").rglob("*.md")} - reached


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built as `make docs` does it."""
    pytest.importorskip("mkdocs", reason="the pages are not built without the extra `docs`: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_the_reference_has_every_stable_name(site):
    for module in REFERENCE:
        page = (site / "api" / f"{module.split('.')[-1]}.html").read_text(encoding="utf-8")
        for name in importlib.import_module(module).__all__:
            assert re.search(rf'id="scansynth\.[\w.]*\b{name}"', page), f"{module}.{name}"


@pytest.mark.slow
def test_the_reference_tells_every_option_of_every_command(site):
    page = (site / "api/commands.html").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f'id="scansynth-{verb}"' in page
    assert "--participant-label" in page
    assert "--moments-only" in page  # which the short help leaves out


@pytest.mark.slow
def test_pages_fit_wide_and_narrow_screens_and_fetch_nothing(site, tmp_path):
    pages = sorted(page for page in site.rglob("*.html") if page.name != "404.html")  # which a server shows
    browser = Browser(tmp_path)
    try:
        for width in (1280, 400):
            browser.resize(width, 900)
            for page in pages:
                browser.open(page, ready="document.querySelector('article') !== null")
                assert browser.run("document.documentElement.scrollWidth") <= width, page
                assert browser.run(WIDER) == [], page
                assert not [one for one in browser.requests if not str(one).startswith(("file:", "data:"))], page
                assert browser.complaints == [], page
    finally:
        browser.close()
