"""Lock file with hashes, bill of materials and licences of all that scansynth needs at run time, for Linux x86-64.

    python tools/supply_chain.py        writes supply/lock.txt, supply/sbom.cdx.json and supply/licences.md

The lock names the exact files that pip would take with `constraints.txt` for all extras but those for development, with
the CPU build of torch. They are installed from it, hashes checked, into an environment of their own, of which
`cyclonedx-py` (`pip install cyclonedx-bom`) writes the bill of materials. `tests/test_supply_chain.py` holds all three
against `constraints.txt` and against each other.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EXTRAS = "prepare,generate,itk,raw,dicom"
LOCK, SBOM, LICENCES = (ROOT / "supply" / name for name in ("lock.txt", "sbom.cdx.json", "licences.md"))
HEAD = """\
# What `pip install 'scansynth[{extras}]'` brings, to the byte: Linux x86-64, CPython 3.11, torch for CPUs.
# Made by tools/supply_chain.py. Use, in a fresh environment (then scansynth itself: pip install --no-deps scansynth):
# pip install --require-hashes --no-deps -r supply/lock.txt --extra-index-url https://download.pytorch.org/whl/cpu
"""
FAMILIES = {
    "MPL-2.0": ("mpl", "mozilla"),
    "Apache-2.0": ("apache",),
    "MIT": ("mit", "expat"),
    "BSD": ("bsd", "new bsd", "3-clause", "2-clause"),
    "PSF": ("psf", "python software foundation"),
    "HPND": ("hpnd", "historical permission"),
    "ISC": ("isc",),
}
"""Licence → words by which packages state it; of several that hold together the first. All of these allow use and sale
beside Apache-2.0 code."""
READ = {
    "dcm2niix": ("BSD", "by hand: BSD and public domain, parts MIT"),
    "matplotlib": ("PSF", "its own text, after that of Python"),
    "scipy": ("BSD", "its own text"),
}
"""Packages that state a whole text: what stands in it."""


def report() -> list[dict[str, Any]]:
    """What pip would install, but scansynth itself: of each package metadata and the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(path), "-c", str(ROOT / "constraints.txt"), f"{ROOT}[{EXTRAS}]"]
        subprocess.run(command, check=True)
        found = json.loads(path.read_text())["install"]
    return sorted(
        (one for one in found if one["metadata"]["name"] != "scansynth"),
        key=lambda one: one["metadata"]["name"].lower(),
    )


def lock(packages: list[dict[str, Any]]) -> str:
    """A line a package, with the hash of its file."""
    lines = [
        f"{one['metadata']['name'].lower()}=={one['metadata']['version']} "
        f"--hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}"
        for one in packages
    ]
    return HEAD.format(extras=EXTRAS) + "\n".join(lines) + "\n"


def licence_of(name: str, told: Mapping[str, Any]) -> tuple[str, str]:
    """Family of a package's licence, and what it states; the family is empty where none is known.

    Args:
        name: of the package.
        told: its metadata: `expression`, `classifiers` and `text`, where stated.
    """
    if name in READ:
        return READ[name]
    classifiers = [one.split(" :: ")[-1] for one in told["classifiers"] if one.startswith("License")]
    text = (told["text"] or "").strip()
    stated = [told["expression"], *classifiers, text if "\n" not in text and len(text) < 80 else None]
    for one in filter(None, stated):
        words = one.lower()
        for family, marks in FAMILIES.items():
            if any(mark in words for mark in marks):
                return family, one
    first = text.splitlines()[0] if text else ""
    return next((key for key, marks in FAMILIES.items() if any(mark in text.lower() for mark in marks)), ""), first


def table(told: Mapping[str, Any]) -> str:
    """Markdown: package, version, licence; of what stands in an environment (`TELL`)."""
    lines = ["# Licences of what scansynth needs at run time", "", "Made by `tools/supply_chain.py`.", "",
             "| package | version | licence | as stated |", "| --- | --- | --- | --- |"]  # fmt: skip
    for name, one in sorted(told.items()):
        family, stated = licence_of(name, one)
        lines.append(f"| {name} | {one['version']} | {family or '**unknown**'} | {stated} |")
    return "\n".join(lines) + "\n"


TELL = """
import json
from importlib.metadata import distributions
print(json.dumps({
    one.metadata["Name"].lower(): {
        "version": one.version, "expression": one.metadata["License-Expression"],
        "classifiers": one.metadata.get_all("Classifier") or [], "text": one.metadata["License"],
    } for one in distributions()
}))
"""


def bill() -> dict[str, Any]:
    """Install from the lock, hashes checked, and let cyclonedx-py say what is there; metadata of each package."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "environment/bin/python")
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(LOCK)]
        subprocess.run(install, check=True)
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "pip"], check=True)
        command = [sys.executable, "-m", "cyclonedx_py", "environment", str(python), "--output-reproducible"]
        command += ["--pyproject", str(ROOT / "pyproject.toml"), "--of", "JSON", "-o", str(SBOM)]
        subprocess.run(command, check=True)
        return json.loads(subprocess.run([str(python), "-c", TELL], check=True, capture_output=True).stdout)


def main() -> None:
    """Write all three."""
    LOCK.parent.mkdir(exist_ok=True)
    packages = report()
    LOCK.write_text(lock(packages), encoding="utf-8")
    LICENCES.write_text(table(bill()), encoding="utf-8")
    print(f"{len(packages)} packages: {LOCK}, {SBOM}, {LICENCES}")


if __name__ == "__main__":
    main()
