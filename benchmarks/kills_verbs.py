"""Kill every other verb before each file operation, and compare what the same command then ends in, bit by bit.

    python benchmarks/kills_verbs.py -o benchmarks/results/kills-verbs.json

As `kills.py sweep` does with `train`: a process kills itself before its k-th file operation in the output, what goes on
is killed once more at a drawn one, and then left in peace. Compared are all files of the output: images and arrays by
their voxels, records by their values without clocks, everything else by its bytes. Methods at toy size; one thread.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
import torch

from kills import source
from kills_digest import hash_of
from kills_sweep import life
from measuring import save
from scansynth.config import RunConfig, Training
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.methods import METHODS
from scansynth.training.train import train

CLOCKS = re.compile(r"second|started|created|date|time|gpu|memory|watt", re.IGNORECASE)
"""Names of values that differ from run to run."""
PAIR = ("T1w", "T2w")
CPU = torch.device("cpu")


def make(folder: Path) -> None:
    """Scans of six subjects, cohorts of them, and a run of a method that draws and of one that generates."""
    write_phantom_cohort(folder / "scans", 6, PAIR, layout="table", shape=(32, 32, 16), spacing=6.0)
    listing = find_subjects(folder / "scans/table.csv")
    cohort = build_cohort(listing, folder / "cohort", Preparation(size=(32, 32, None)))
    whole = Preparation(spacing=(6.0, 6.0, 6.0), size=(32, 32, 16))
    heads = build_cohort(listing, folder / "heads", whole)
    few = Training(steps=2, batch_size=2, log_every=1, validation_slices=1, precision="float32", threads=1)
    for method, data, contrasts, of in (
        ("syndiff", cohort, PAIR, {}), ("cdpm", heads, PAIR[:1], {"translator": False}),
    ):  # fmt: skip
        settings = replace(METHODS[method].load().Config.tiny(), **of)
        train(RunConfig(method, settings, contrasts, training=few), data, folder / method, device=CPU)


def verbs(folder: Path, out: Path) -> dict[str, list[str]]:
    """Name → command that writes into `out` alone."""
    scans, cohort = str(folder / "scans/table.csv"), str(folder / "cohort")
    syndiff = ["--run", str(folder / "syndiff"), "--device", "cpu"]
    return {
        "prepare": ["prepare", "-i", scans, "-o", str(out), "--tissue", "segment"],
        "translate a folder": ["translate", *syndiff, "-i", scans, "-o", str(out), "--samples", "2"],
        "translate one": [
            "translate", *syndiff, "--t1w", str(sorted((folder / "scans").glob("*T1w.nii.gz"))[0]), "--target", "T2w",
            "-o", str(out / "t2.nii.gz"), "--samples", "2",
        ],
        "evaluate": [
            "evaluate", *syndiff, "--cohort", cohort, "-o", str(out / "found"), "--keep", str(out / "kept"),
            "--samples", "2",
        ],
        "generate": ["generate", "--run", str(folder / "cdpm"), "-n", "2", "-o", str(out), "--device", "cpu"],
    }  # fmt: skip


def digest(out: Path) -> dict[str, str]:
    """File → hash of what must not depend on interruptions; hidden files, logs and pages with clocks are left out."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(out).parts):
            continue
        if path.name.endswith(".nii.gz"):
            image = nib.Nifti1Image.from_filename(path)
            found[name] = hash_of(np.asarray(image.dataobj).tobytes(), image.affine.tobytes())
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = hash_of(arrays["image"].tobytes())  # beside it stands what it cost
        elif path.suffix == ".json":
            found[name] = hash_of(json.dumps(timeless(json.loads(path.read_text()))).encode())
        elif path.suffix == ".b2nd":  # compressed by several threads, whose order is in its bytes
            # Without threads, which no process that is forked from this one would have.
            array: Any = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
            found[name] = hash_of(np.asarray(array[:]).tobytes())
        elif (
            path.suffix not in (".html", ".md") and path.name != "SHA256SUMS"
        ):  # figures in them stand in tables and records, too
            found[name] = hash_of(path.read_bytes())
    return found


def timeless(value: Any) -> Any:
    """A record without clocks, nor sizes and hashes of images whose gzip header may hold one."""
    if isinstance(value, dict):
        kept = {key: timeless(one) for key, one in value.items() if not CLOCKS.search(key)}
        return {key: one for key, one in kept.items() if key not in ("bytes", "sha256", "record_sha256")}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def swept(arguments: list[str], out: Path, folder: Path, *, seed: int, only: int | None) -> dict[str, Any]:
    """Kill a command before each of its file operations (or `only` so many, spread evenly), and compare."""
    generator, log = random.Random(seed), folder / "log"

    def clear() -> None:
        for path in (out, *out.parent.glob(f".*{out.name}*")):
            shutil.rmtree(path, ignore_errors=True)

    clear()
    operations = life(arguments, out, log, None)
    assert operations
    expected = digest(out)
    clear()
    life(arguments, out, log, None)
    steady = {name for name, one in digest(out).items() if expected.get(name) == one}
    points = range(1, len(operations) + 1)
    if only and only < len(operations):
        points = sorted({round(1 + place * (len(operations) - 1) / (only - 1)) for place in range(only)})
    failures, kills, refused = [], 0, 0
    for point in points:
        clear()
        second = generator.randint(1, len(operations))
        why: dict[str, Any] = {"before": operations[point - 1], "point": point, "second": second}
        try:
            for before in (point, second, None):
                killed, asked = _lived(arguments, out, log, before)
                kills, refused = kills + killed, refused + asked
            found = digest(out)
            unequal = sorted(name for name in steady if found.get(name) != expected[name])
            strangers = sorted(found.keys() - expected.keys())
            if unequal or strangers:
                failures.append({**why, "unequal": unequal, "strangers": strangers})
        except RuntimeError as error:
            failures.append({**why, "error": " ".join(str(error).replace(str(folder), "…").split())})
        if failures and failures[-1]["point"] == point:
            print(json.dumps(failures[-1]), flush=True)
    return {
        "operations": len(operations), "points": len(points), "kills": kills, "refused in a line": refused,
        "equal": not failures,
        "compared": len(steady), "differ between two runs in peace": sorted(expected.keys() - steady),
        "failures": failures,
    }  # fmt: skip


def _lived(arguments: list[str], out: Path, log: Path, kill_before: int | None) -> tuple[bool, bool]:
    """Let the command live; whether it was killed, and whether it asked for `--overwrite` in one line, and got it.

    It asks where a kill came when all but what is hidden was done.
    """
    try:
        return life(arguments, out, log, kill_before) is None, False
    except RuntimeError as error:
        lines = str(error).strip().splitlines()[1:]
        if len(lines) != 1 or not lines[0].endswith("or --overwrite"):
            raise
        return life([*arguments, "--overwrite"], out, log, kill_before) is None, True


def main() -> int:
    """Sweep each verb; the exit code is 1 if anything was not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", nargs="+", help="of these only")
    parser.add_argument("--only", type=int, help="operations to kill before; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the second kill")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="kills-verbs-"))
    make(folder)
    results = {}
    for verb, arguments in verbs(folder, folder / "out").items():
        if asked.verbs and verb not in asked.verbs:
            continue
        results[verb] = swept(arguments, folder / "out", folder, seed=asked.seed, only=asked.only)
        print(f"{verb}: {results[verb]['kills']} kills at {results[verb]['points']} of "
              f"{results[verb]['operations']} operations, {'' if results[verb]['equal'] else 'NOT '}equal "
              f"({results[verb]['compared']} files)", flush=True)  # fmt: skip
    save(asked.output, {"source": source(), "results": results})
    equal = all(one["equal"] for one in results.values())
    if equal:
        shutil.rmtree(folder)
    print(f"equal: {equal}" + ("" if equal else f"; folders are kept in {folder}"))
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
