"""Files beside the code that others read: how to cite it, what a commit and the public forge run. Are they true?"""

import ast
import re
import tomllib
from pathlib import Path

import yaml

import scansynth
from scansynth.methods import METHODS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def opening(method):
    """The docstring that a method's file opens with, as one line; nothing is imported for it."""
    module = METHODS[method].location.split(":")[0]
    path = Path(scansynth.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())


def test_the_citation_is_of_this_version_and_licence():
    citation = read("CITATION.cff")
    assert citation["version"] == scansynth.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]
    assert citation["title"] == PROJECT["name"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["message"]


def test_the_citation_refers_to_the_papers_of_the_core_as_their_methods_do():
    references = read("CITATION.cff")["references"]
    for method, reference in zip(("syndiff", "cg_ddpm", "mrdiff", "cola_diff", "cdpm"), references, strict=True):
        assert f'"{reference["title"]}"' in opening(method)
        named = [author["family-names"] for author in reference["authors"] if "family-names" in author]
        if method != "cg_ddpm":  # whose citation here names nobody
            assert named[0] in METHODS[method].citation
        if "year" in reference:
            assert str(reference["year"]) in METHODS[method].citation
        for key in ("journal", "collection-title"):
            assert reference.get(key, "") in METHODS[method].citation


def test_hooks_take_the_projects_own_ruff_and_fetch_nothing():
    hooks = []
    for repository in read(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local"
        hooks += repository["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M).group(1)
    ours = [hook["entry"].replace("--force-exclude", ".") for hook in hooks if hook["language"] == "system"]
    assert ours == [line.strip().replace("$(VENV)", ".venv") for line in lint.splitlines()]
    assert {hook["language"] for hook in hooks} == {"system", "pygrep"}  # which pre-commit needs no environment for
