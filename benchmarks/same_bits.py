"""Whether a change of the code changed any result: hashes of what each method trains, translates and measures.

    python benchmarks/same_bits.py WORK [--against BEFORE.json] [--from RUNS] [-o RESULT.json]

Every method at toy size is trained for a few steps on phantoms, translates one subject (or generates a volume) and is
evaluated. All goes through the command line, so that the same script runs on the code before and after a change. WORK
keeps the phantoms and runs; scans that are there are taken as they are. `--from RUNS` trains nothing and takes the run
folders of another WORK: whether runs of older code still load, and make what they made.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from measuring import save
from scansynth.config import DataSettings, RunConfig, Training, to_yaml
from scansynth.data.phantom import write_phantom_cohort
from scansynth.methods import METHODS

SCANSYNTH = Path(sys.executable).with_name("scansynth")
VARIANTS = {
    "syndiff-unpaired": ("syndiff", {"variant": "unpaired"}, {}),
    "ddpm-slices": ("ddpm", {"patch": None, "output": "x0", "variance": "fixed", "sampler": "ddim"}, {}),
    "regression-accelerated": ("regression", {}, {"acceleration": (("T1w", 2),)}),
    "cdpm-generator": ("cdpm", {"translator": False}, {}),
}
MEASURED = ("table.csv", "slices.csv", "uncertainty.csv", "consistency.csv", "observed.csv", "regions.csv")


def scansynth(*words: str | Path) -> None:
    """One command, with one thread."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([SCANSYNTH, *words], env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"scansynth {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


def digest(content: bytes) -> str:
    """A short name of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def images(folder: Path, pattern: str = "*.nii.gz") -> str:
    """A digest of all voxels of the NIfTI files of a folder; hypothetical maps count only where they are asked for."""
    found = sorted(path for path in folder.rglob(pattern) if "map" in pattern or "map." not in path.name)
    assert found, folder
    return digest(b"".join(np.asanyarray(nib.load(path).dataobj).tobytes() for path in found))


def without_costs(path: Path) -> bytes:
    """A table's bytes, without columns of seconds and memory."""
    lines = [line.split(",") for line in path.read_text().splitlines()]
    kept = [k for k, name in enumerate(lines[0]) if not name.startswith(("seconds", "memory"))]
    return "\n".join(",".join(line[k] for k in kept if k < len(line)) for line in lines).encode()


def make_cohorts(work: Path) -> None:
    """Phantoms, and two cohorts of them: as acquired with tissue, and on one grid."""
    if not (work / "scans").exists():
        write_phantom_cohort(
            work / "scans", subjects=6, contrasts=("T1w", "T2w"), layout="table", shape=(32, 32, 16), spacing=6.0
        )
    table = work / "scans" / "table.csv"
    common = ("--accept", "few-slices")
    if not (work / "cohort").exists():
        scansynth("prepare", "-i", table, "-o", work / "cohort", "--size", "32", "32", "None", "--tissue", "segment",
                  *common)  # fmt: skip
        scansynth("prepare", "-i", table, "-o", work / "gridded", "--size", "32", "32", "16",
                  "--spacing", "6", "6", "6", *common)  # fmt: skip


def measure(work: Path, name: str, runs: Path | None) -> dict[str, str]:
    """Train a case, translate and evaluate with it, and hash all that comes out."""
    method, settings, data = VARIANTS.get(name, (name, {}, {}))
    tiny = replace(METHODS[method].load().Config.tiny(), **settings)
    contrasts = ("T1w",) if name == "cdpm-generator" else ("T1w", "T2w")
    training = Training(
        steps=6, batch_size=2, log_every=2, validate_every=3, validation_slices=2, precision="float32", threads=1
    )
    config = RunConfig(method, tiny, contrasts, data=DataSettings(**data), training=training)
    run = (runs or work) / "runs" / name
    cohort = work / ("gridded" if contrasts == ("T1w",) else "cohort")
    if not runs:
        file = work / f"{name}.yaml"
        file.write_text(to_yaml(config))
        stage = ("--first-stage", work / "runs" / "autoencoder") if method in ("ldm", "cola_diff") else ()
        scansynth("train", file, "--cohort", cohort, "--run", run, "--device", "cpu", *stage)
    found = {
        "metrics": digest(
            "".join(
                json.dumps({key: value for key, value in json.loads(line).items() if key != "seconds_per_step"})
                for line in (run / "metrics.jsonl").read_text().splitlines()
            ).encode()
        )
    }
    for kind in ("last", "best"):
        weights = run / kind / (run / kind / "current").read_text().strip() / "weights.safetensors"
        found[f"{kind} weights"] = digest(weights.read_bytes())
    out = work / ("out" if not runs else "out-of-older-runs") / name
    if contrasts == ("T1w",):
        scansynth("generate", "--run", run, "-n", "1", "-o", out, "--device", "cpu")
        return {**found, "generated": images(out)}
    if method != "autoencoder":
        source = next((work / "scans").rglob("*006*T1w.nii.gz"))
        stochastic = ("--samples", "2") if method not in ("regression",) else ()
        maps = ("--maps",) if method == "mrdiff" else ()
        accept = ("--accept", "few-slices")
        scansynth("translate", "--run", run, "--t1w", source, "--target", "T2w", "-o", out / "T2w.nii.gz",
                  "--device", "cpu", *stochastic, *maps, *accept)  # fmt: skip
        found["translated"] = images(out)
        if maps:
            found["maps"] = images(out, "*map.nii.gz")
    samples = ("--samples", "2") if method not in ("regression", "autoencoder") else ()
    scansynth("evaluate", "--run", run, "--cohort", cohort, "-o", out / "evaluated", "--device", "cpu", *samples)
    for table in MEASURED:
        if (path := out / "evaluated" / table).exists():
            found[table] = digest(without_costs(path))
    return found


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--from", dest="runs", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    make_cohorts(asked.work)
    before = json.loads(asked.against.read_text())["hashes"] if asked.against else {}
    hashes: dict[str, dict[str, str]] = {}
    differs: dict[str, list[str]] = {}
    for name in asked.only or [name for name in (*METHODS, *VARIANTS) if not before or name in before]:
        hashes[name] = measure(asked.work, name, asked.runs)
        if other := sorted(key for key in hashes[name] if before and hashes[name][key] != before[name].get(key)):
            differs[name] = other
        said = f"DIFFERS: {', '.join(other)}" if other else "equal" if before else "made"
        print(f"{name}: {said}", flush=True)
    save(asked.output, {"hashes": hashes, **({"differs": differs} if before else {})})
    if differs:
        raise SystemExit("not the same bits")


if __name__ == "__main__":
    main()
