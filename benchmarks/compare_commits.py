"""Two commits side by side: seconds of a training step, a slice or a volume, in turns, as ratios with intervals.

    python benchmarks/compare_commits.py HEAD~20 HEAD --recipes syndiff_small regression_small -o FILE.json
    python benchmarks/compare_commits.py v0.1.0 . --work slice volume --size 160 192

Both are checked out beside each other (`.`: the files as they lie here), each is worked by a process of its own, and
the two take turns, so that what else happens on the machine falls on both. A ratio is one turn's seconds of the second
commit over those of the first: below 1 is faster. Its interval is the bootstrap's of the median, 95 %. The processes
ask little of the package, so that old commits can be measured by this file. Both are told the threads and have
`OMP_WAIT_POLICY=passive`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
WARM_UP = 2
WORK = ("iteration", "slice", "volume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", help="two of them; '.' for the files as they lie here")
    parser.add_argument("--recipes", nargs="+", default=["regression_small", "syndiff_small", "ddpm_x0_small"])
    parser.add_argument("--work", nargs="+", default=["iteration", "slice"], choices=WORK)
    parser.add_argument("--size", nargs=2, type=int, default=(64, 80), help="pixels of a slice")
    parser.add_argument("--depth", type=int, default=16, help="slices of a volume")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # a case, in the process of a commit
    arguments = parser.parse_args()
    if arguments.worker:
        serve(json.loads(arguments.worker))
        return
    if len(arguments.commits) != 2:
        parser.error("name two commits")
    rows = []
    with ExitStack() as stack:
        places = [stack.enter_context(checkout(commit)) for commit in arguments.commits]
        for recipe in arguments.recipes:
            for work in arguments.work:
                case = {
                    "recipe": recipe, "work": work, "size": list(arguments.size), "depth": arguments.depth,
                    "precision": arguments.precision, "threads": arguments.threads,
                }  # fmt: skip
                rows.append(case | compared(case, places, arguments.turns))
                print(json.dumps(rows[-1]), flush=True)
    if arguments.output:
        from measuring import save

        save(arguments.output, {"commits": [described(one) for one in arguments.commits], "results": rows})


def described(commit: str) -> str:
    """Its short hash; with '+' where the files as they lie here are another thing."""
    name = "HEAD" if commit == "." else commit
    short = git("rev-parse", "--short", name)
    return f"{short}+" if commit == "." and git("status", "--porcelain", "--", "src") else short


def git(*words: str) -> str:
    """What git says."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The sources of a commit, in a folder that is gone afterwards."""
    if commit == ".":
        yield ROOT / "src"
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "src"], capture_output=True, check=True
        )
        subprocess.run(["tar", "-xf", "-", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder) / "src"


def compared(case: dict[str, Any], places: Sequence[Path], turns: int) -> dict[str, Any]:
    """Seconds of both, and their ratio."""
    workers = [worker(case, place) for place in places]
    try:
        seconds = np.array([[ask(one) for one in workers] for _ in range(WARM_UP + turns)])[WARM_UP:]
    except RuntimeError as error:
        return {"failed": str(error)}
    finally:
        for one in workers:
            one.kill()
            one.wait()
    ratios = seconds[:, 1] / seconds[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return {
        "seconds": np.median(seconds, axis=0).round(4).tolist(),
        "ratio": round(float(np.median(ratios)), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
    }


def worker(case: dict[str, Any], place: Path) -> "subprocess.Popen[str]":
    """A process of a commit, which works when it is asked to."""
    env = os.environ | {
        "PYTHONPATH": str(place), "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(case["threads"])
    }  # fmt: skip
    command = [sys.executable, __file__, "--worker", json.dumps(case)]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: "subprocess.Popen[str]") -> float:
    """Seconds of one piece of work.

    Raises:
        RuntimeError: if the process has ended.
    """
    assert process.stdin, "the process has a pipe"
    assert process.stdout, "the process has a pipe"
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
    except BrokenPipeError as error:
        raise RuntimeError("a commit cannot do this work (see its message above)") from error
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a commit cannot do this work (see its message above)")
    return float(line)


def serve(case: dict[str, Any]) -> None:
    """Do the work of a case as often as it is asked for; print the seconds of each."""
    import torch

    torch.set_num_threads(case["threads"])
    work = iteration(case) if case["work"] == "iteration" else synthesis(case)
    for _ in sys.stdin:
        begun = time.perf_counter()
        work()
        print(time.perf_counter() - begun, flush=True)


def built(case: dict[str, Any]) -> tuple[Any, Any]:
    """A recipe on two contrasts, and its method, untrained."""
    from scansynth.recipes import find_recipe
    from scansynth.training.parts import make_method

    config = find_recipe(case["recipe"])
    config = replace(config, contrasts=("T1w", "T2w"))
    return config, make_method(config)


def iteration(case: dict[str, Any]) -> Callable[[], None]:
    """A training step on random samples."""
    import torch

    from scansynth.method import Progress
    from scansynth.training.engine import Engine
    from scansynth.training.loop import step

    config, method = built(case)
    engine, numbers = Engine(method, torch.device("cpu"), case["precision"]), iter(range(1, 10**6))
    batch = method.needs.random_batch(2, config.training.batch_size, tuple(case["size"]), 0)

    def work() -> None:
        number = next(numbers)
        step(engine, batch, config, number, Progress(number, 10**6, 0.0))

    return work


def synthesis(case: dict[str, Any]) -> Callable[[], None]:
    """A slice, or a volume, from random sources."""
    import torch

    from scansynth.network_precision import prepare_synthesis
    from scansynth.noise import Noise

    _, method = built(case)
    prepare_synthesis(method, torch.device("cpu"), case["precision"])
    images = torch.rand(1, 2, *case["size"], 1 if case["work"] == "slice" else case["depth"]) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, False]])}

    def work() -> None:
        with torch.no_grad():
            method.translate(batch, "T2w", method.needs.windows(), Noise([(0, "subject", 0)]))

    return work


if __name__ == "__main__":
    main()
