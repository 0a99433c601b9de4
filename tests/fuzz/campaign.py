"""Many damaged files and folders through the readers, one process at a time with limits, and what was found.

    python tests/fuzz/campaign.py --inputs 100000 --seed 0 -o build/fuzz

Of each is asked what must hold of any: no exception but `InputError`, which names the file in one line that can be
read; no more than 5 s; no more memory than twice what the file truly holds and 200 MB. What is read of images is
written and read again, and must be the same. `report.json` says what was tried, what came of it and what the readers'
last boundary caught; files that break a rule stand in `found/`: mended, they go into `corpus/`, which every run begins
with, or into a test.
"""

import argparse
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fuzz import folders  # noqa: E402
from fuzz.mutations import draw, held  # noqa: E402

SECONDS = 5.0
MEMORY = 200 << 20
"""Bytes beyond twice what a file holds."""
STARTING = 120.0
"""Seconds in which a process is ready, or a case made."""
ROOM = 6 << 30
"""Bytes of address space that a process may map in all, libraries included."""
CORPUS = HERE / "corpus"
LONGEST = 2000
"""Characters of a message."""
FOLDERS = 0.2
"""Share of cases that are whole folders (`folders.py`); the others are single images, masks and sidecars."""
BASES = "bases"
"""Folder of those that are mutated, in the campaign's own."""
IMAGES = (".nii", ".nii.gz", ".mgh", ".mgz", ".mha", ".mhd", ".nrrd", ".nhdr")


def cases(inputs: int) -> list[str]:
    """Names of what is tried: files of the corpus, then numbers."""
    corpus = sorted(path.name for path in CORPUS.iterdir() if path.name.endswith((*IMAGES, ".json")))
    return [*corpus, *map(str, range(inputs))]


def case(name: str, seed: int, bases: Path) -> tuple[str, str, dict[str, bytes]]:
    """Kind, mutations and files of a case."""
    if name.isdecimal():
        rng = random.Random(f"{seed} {name}")
        return folders.draw(rng, bases) if rng.random() < FOLDERS else draw(rng)
    stem = name.split(".")[0]
    beside = [path for path in sorted(CORPUS.iterdir()) if path.name.split(".")[0] == stem and path.name != name]
    return "corpus", name, {path.name: path.read_bytes() for path in (CORPUS / name, *beside)}


def judge(call: Callable[[Path], Any], path: Path, allowed: int) -> tuple[str, str]:
    """How a call on a file ended, and why: `read`, `refused`, `caught` by the last boundary, or a rule it broke.

    Args:
        call: what is done with the file.
        path: of the file.
        allowed: bytes of memory that it may take.
    """
    from scansynth.errors import InputError

    start, before = time.monotonic(), _reset_peak()
    try:
        call(path)
        ended = "read", ""
    except InputError as error:
        by_boundary = f" cannot be read ({type(error.__cause__).__name__}: " in str(error)
        ended = "caught" if by_boundary else "refused", str(error)
        if isinstance(error.__cause__, MemoryError):
            ended = "memory", f"{error} (of its address space)"
        elif str(path.parent) not in str(error) or "\n" in str(error) or len(str(error)) > LONGEST:
            ended = "words", str(error)
    except BaseException as error:
        ended = "exception", f"{type(error).__name__}: {error}"
    taken = _status("VmHWM") - before
    if taken > allowed:
        return "memory", f"{taken >> 20} MiB, allowed are {allowed >> 20} ({ended[0]}: {ended[1]})"
    if (seconds := time.monotonic() - start) > SECONDS:
        return "hang", f"{seconds:.1f} s ({ended[0]}: {ended[1]})"
    return ended


def work(seed: int, inputs: int, first: int, folder: Path) -> None:
    """Try cases one after the other, telling of each call before and after it, a line each."""
    import warnings

    warnings.simplefilter("ignore")
    calls = _calls(folder) | folders.calls(folder)
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)  # MetaIO prints
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for index, name in enumerate(cases(inputs)[first:], first):
        kind, how, file = case(name, seed, folder / BASES)
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        _write(place, file)
        path = place / folders.FIRST.get(kind, next(iter(file)))
        allowed = 2 * held(file) + MEMORY
        del file
        for call in calls[kind if kind in calls else "sidecar" if path.suffix == ".json" else "image"]:
            tell.write(f"{json.dumps([index])}\n")
            ended, why = judge(call, path, allowed)
            tell.write(f"{json.dumps([index, kind, how, call.__name__, ended, why])}\n")


def _write(place: Path, file: dict[str, bytes]) -> None:
    """The files of a case, each where its name says."""
    for part, content in file.items():
        (place / part).parent.mkdir(parents=True, exist_ok=True)
        (place / part).write_bytes(content)


def _calls(folder: Path) -> dict[str, list[Callable[[Path], Any]]]:
    """What is done with an image and with a sidecar."""
    import numpy as np

    from scansynth.data.acquisitions import read_sidecar
    from scansynth.data.readers import read_labels, reading
    from scansynth.data.scan_facts import facts_of
    from scansynth.data.subject import is_synthetic
    from scansynth.data.volume import Volume, same_grid

    def scan(path: Path) -> None:
        with reading(path):
            volume = Volume.read(path)
            facts_of(volume, "x", "T1w")
        assert np.isfinite(volume.array).all()
        assert volume.array.dtype == np.float32
        assert np.isfinite(volume.affine).all()
        volume.write_array(folder / "again.nii", volume.array, "x")
        again = Volume.read(folder / "again.nii")
        np.testing.assert_array_equal(again.array, volume.array)
        assert same_grid(again.space, volume.space)

    def mask(path: Path) -> None:
        labels, affine = read_labels(path)
        assert labels.dtype == np.uint8
        assert np.isfinite(affine).all()

    def sidecar(path: Path) -> None:
        is_synthetic(path.with_name("x.nii"))
        json.loads(json.dumps(read_sidecar(path), allow_nan=False))

    return {"image": [scan, mask], "sidecar": [sidecar]}


def supervise(
    command: Sequence[str], count: int, *, seconds: float = SECONDS, starting: float = STARTING
) -> Iterator[list[Any]]:
    """The lines that workers tell; one that hangs or dies is named, ended, and another goes on behind its case.

    Args:
        command: starts a worker; the number of its first case is appended.
        count: of cases.
        seconds: for one call.
        starting: seconds until a case is made, or a worker has begun.
    """
    index = 0
    while index < count:
        with subprocess.Popen([*command, str(index)], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            limit, current = starting, None
            for line in _lines(worker.stdout.fileno(), lambda: limit):  # noqa: B023 (as it is then)
                if line is None:
                    worker.kill()
                    current = index if current is None else current
                    yield [current, "", "", "", "hang", f"no answer in {limit:.0f} s"]
                    break
                told = json.loads(line)
                current = told[0]
                limit = starting if len(told) > 1 else seconds  # the next case is made, or a call has begun
                if len(told) > 1:
                    yield told
            else:
                if worker.wait() == 0:
                    return
                current = index if current is None else current
                yield [current, "", "", "", "crash", f"exit code {worker.returncode}"]
            index = current + 1


def _lines(pipe: int, limit: Callable[[], float]) -> Iterator[bytes | None]:
    """Lines from a pipe; None when the next one takes longer than `limit()` seconds."""
    waiting = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(limit()):
                yield None
                return
            if not (chunk := os.read(pipe, 1 << 16)):
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            yield from lines


def campaign(inputs: int, seed: int, out: Path) -> dict[str, Any]:
    """Try all cases; writes `report.json` and `found/`, and returns the report."""
    out.mkdir(parents=True, exist_ok=True)
    names, start = cases(inputs), time.monotonic()
    tried: Counter[str] = Counter()
    ends: dict[str, Counter[str]] = {}
    caught: dict[str, list[str]] = {}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bases = Path(folder, BASES)
        folders.make(bases)
        command = [sys.executable, str(Path(__file__)), "--inputs", str(inputs), "--seed", str(seed), "-o", folder]
        for index, kind, how, call, ended, why in supervise([*command, "--worker"], len(names)):
            if not kind:
                kind, how, _ = case(names[index], seed, bases)
            for one in how.split("+") if kind != "corpus" else ["corpus"]:
                tried[one] += 1
            ends.setdefault(kind, Counter())[ended] += 1
            if ended == "caught":
                caught.setdefault(f"{kind}: {why.split(' cannot be read ')[-1]}", []).append(names[index])
            if ended not in ("read", "refused", "caught"):
                found.append({"case": names[index], "kind": kind, "how": how, "call": call, "rule": ended, "why": why})
                files = case(names[index], seed, bases)[2]
                _write(out / "found" / names[index], {name: one for name, one in files.items() if len(one) < 1 << 20})
    report = {
        "inputs": inputs, "corpus": len(names) - inputs, "seed": seed, "seconds": round(time.monotonic() - start, 1),
        "found": found, "mutations": dict(tried.most_common()),
        "ends": {kind: dict(ends[kind]) for kind in sorted(ends)}, "caught": caught,
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def _reset_peak() -> int:
    """Bytes that are resident; the peak counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        work(asked.seed, asked.inputs, asked.worker, asked.output)
        return 0
    report = campaign(asked.inputs, asked.seed, asked.output)
    for one in report["found"]:
        print(f"{one['rule']}: case {one['case']} ({one['kind']}, {one['how']}), {one['call']}: {one['why']}")
    ends = sum((Counter(one) for one in report["ends"].values()), Counter())
    told = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    print(
        f"{len(report['found'])} found in {report['corpus']} + {report['inputs']} files, {report['seconds']} s: {told}"
    )
    print(asked.output / "report.json")
    return 1 if report["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
