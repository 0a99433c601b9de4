"""What scansynth brings along: locked, licensed, listed; and its own packages, built twice to the same bytes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINE = re.compile(r"([a-z0-9._-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    lines = (ROOT / "supply/lock.txt").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert all(found)
    return {plain(one[1]): one[2] for one in found if one}


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {plain(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def test_the_lock_has_the_versions_that_are_tested_and_all_that_is_named():
    lock = locked()
    pins = pinned()
    tested = {name: version for name, version in lock.items() if name in pins}
    assert {name: version.removesuffix("+cpu") for name, version in tested.items()} == {
        name: pins[name] for name in tested
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][name] for name in ("prepare", "generate", "itk", "raw", "dicom"))
    named = [*project["dependencies"], *(one for extra in extras for one in extra)]
    assert {plain(re.split(r"[<>=!~;\[ ]", one)[0]) for one in named} <= lock.keys()
    assert len(tested) > 0.8 * len(lock)


def test_all_licences_are_known_and_go_with_apache():
    rows = [line.split(" | ") for line in (ROOT / "supply/licences.md").read_text().splitlines() if " | " in line]
    found = {plain(row[0].removeprefix("| ")): (row[1], row[2]) for row in rows[2:]}
    assert {name: version for name, (version, _) in found.items()} == locked()
    families = {"Apache-2.0", "MIT", "BSD", "PSF", "MPL-2.0", "HPND", "ISC"}
    assert {name: family for name, (_, family) in found.items() if family not in families} == {}


def test_the_bill_of_materials_lists_what_is_locked():
    text = (ROOT / "supply/sbom.cdx.json").read_text()
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX"
    assert {plain(one["name"]): one["version"] for one in bill["components"]} == locked()
    assert "file://" not in text  # no path of the machine that made it


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source archive, built twice from two copies of the tree that lie, and were written, elsewhere."""
    pytest.importorskip("hatchling")
    folders = []
    for name in ("one", "other"):
        tree = tmp_path_factory.mktemp(name) / "tree"
        shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, tree / file)
        if name == "other":
            for path in tree.rglob("*"):
                os.utime(path, (10**9, 10**9))
        out = tree.parent / "dist"
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=tree, check=True)
        folders.append(out)
    return folders


@pytest.mark.slow
def test_two_builds_are_the_same_bytes_and_have_all_files(built):
    one, other = ({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()} for out in built)
    assert one == other
    (wheel,) = built[0].glob("*.whl")
    (archive,) = built[0].glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if not name.split("/")[0].endswith(".dist-info")}
    files = {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/scansynth").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip
    assert inside == files
    with tarfile.open(archive) as file:
        assert {name.split("/", 2)[2] for name in file.getnames() if "/src/" in name} == files


@pytest.mark.slow
def test_an_installed_wheel_runs_and_is_not_the_tree(built, tmp_path):
    """The commands of the wheel alone, in another folder."""
    (wheel,) = built[0].glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(tmp_path / "site"), str(wheel)], check=True)
    code = (
        "import sys, scansynth, scansynth.report.report; from scansynth.cli import main; print(scansynth.__file__); "
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    asked = ["methods --json", "train regression_small --help", "inspect starter", "inspect nowhere"]
    for words in map(str.split, asked):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.stdout.splitlines()[0] == str(tmp_path / "site/scansynth/__init__.py")
        assert done.returncode == (words[-1] == "nowhere"), done.stderr
