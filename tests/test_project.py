"""Files beside the code that others read: how to cite it, what a commit and the public forge run. Are they true?"""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import scansynth
from browser import NAMES, REQUIRED
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


def runs(job):
    """What a job of the workflow runs in a shell."""
    return [step["run"] for step in read(".github/workflows/test.yml")["jobs"][job]["steps"] if "run" in step]


@pytest.mark.parametrize(("job", "command", "page"), [
    ("test", "make test", "README.md"), ("slow", "make test-slow", "CONTRIBUTING.md"),
    ("docs", "make docs", "CONTRIBUTING.md"),
])  # fmt: skip
def test_the_public_forge_runs_what_the_pages_name_and_the_makefile_has(job, command, page):
    assert runs(job)[-1] == command
    assert re.search(rf"^(\| `)?{command}\b(?!-)", (ROOT / page).read_text(), re.M)
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)
    torch = next(line for line in (ROOT / "README.md").read_text().splitlines() if "install torch==" in line)
    (same,) = (line for run in runs(job) for line in run.splitlines() if "torch==" in line)
    assert torch.split()[-2:] == same.split()[-2:]  # the index of PyTorch's builds for CPUs
    pinned = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), re.M).group()
    assert pinned in torch.split()


def test_the_public_forge_runs_on_pushes_and_requests_may_only_read_and_ends():
    workflow = read(".github/workflows/test.yml")
    assert workflow[True] == {"push": {"branches": ["main"]}, "pull_request": None}  # YAML 1.1 reads the key `on` so
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert all(0 < job["timeout-minutes"] <= 360 for job in workflow["jobs"].values())
    test = workflow["jobs"]["test"]
    assert test["env"] == {REQUIRED: "1"}
    assert any(f"command -v {NAMES[0]}" in run for run in runs("test"))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert test["strategy"]["matrix"]["python"][0] == lowest
    assert all(isinstance(version, str) for version in test["strategy"]["matrix"]["python"])


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
)])  # fmt: skip
def test_links_of_a_page_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
