"""Thousands of training steps and hundreds of translations in one process: what memory and open files do meanwhile.

    python benchmarks/soak.py -o benchmarks/results/soak.json

A toy SynDiff is trained with a checkpoint and a validation every hundred steps, then one subject is translated again
and again, drawn and written. Of resident memory and of open files stands the slope along a line, after a tenth of the
way, in which libraries fill their pools. One thread.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import save
from scansynth.config import RunConfig, Training
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.methods import METHODS
from scansynth.progress import Event
from scansynth.synthesis.run import Run
from scansynth.synthesis.sampling import Sampling
from scansynth.training.train import train

PAIR = ("T1w", "T2w")
SETTLED = 0.1
"""Share of the way that is not counted."""


class Watch:
    """Resident memory, MB, and open files over a count."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, int]] = []

    def __call__(self, done: int) -> None:
        """Note both at a count."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.rows.append((done, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))))

    def told(self) -> dict[str, Any]:
        """Slopes for a thousand, and where both began and ended."""
        rows = np.array(self.rows)
        rows = rows[rows[:, 0] >= SETTLED * rows[-1, 0]]
        memory, files = (np.polyfit(rows[:, 0] / 1000, rows[:, column], 1)[0] for column in (1, 2))
        return {
            "counted": int(rows[-1, 0] - rows[0, 0]),
            "MB in quarters": [round(float(part[:, 1].mean()), 1) for part in np.array_split(rows, 4)],
            "MB at first": round(float(rows[0, 1]), 1),
            "MB at last": round(float(rows[-1, 1]), 1), "MB for a thousand": round(float(memory), 2),
            "open files at first": int(rows[0, 2]), "open files at last": int(rows[-1, 2]),
            "open files for a thousand": round(float(files), 2),
        }  # fmt: skip


def main() -> None:
    """Train, translate, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--translations", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        results = soaked(Path(place), asked.steps, asked.translations)
    print(json.dumps(results, indent=1))
    save(asked.output, {"results": results})


def soaked(folder: Path, steps: int, translations: int) -> dict[str, Any]:
    """Both parts, in this process."""
    write_phantom_cohort(folder / "scans", 4, PAIR, layout="table", shape=(32, 32, 16), spacing=6.0)
    listing = find_subjects(folder / "scans/table.csv")
    cohort = build_cohort(listing, folder / "cohort", Preparation(size=(32, 32, None)))
    training = Training(
        steps=steps, batch_size=1, log_every=20, checkpoint_every=100, validate_every=100, validation_slices=2,
        precision="float32", threads=1,
    )  # fmt: skip
    config = RunConfig("syndiff", METHODS["syndiff"].load().Config.tiny(), PAIR, training=training)
    trained, translated = Watch(), Watch()
    train(config, cohort, folder / "run", device=torch.device("cpu"), report=every(steps // 100, trained))
    run = Run.load(folder / "run", "cpu")
    source = listing.subjects[0].scans["T1w"]
    for number in range(translations):
        made = run.translate({"T1w": source}, "T2w", sampling=Sampling(seed=number))
        made.write(folder / "out" / f"{number % 7}.nii.gz")
        translated(number)
    return {"training steps": trained.told(), "translations": translated.told()}


def every(count: int, watch: Watch) -> Callable[[Event], None]:
    """Tells a watch of each so many steps."""

    def report(event: Event) -> None:
        if event.done % max(count, 1) == 0:
            watch(event.done)

    return report


if __name__ == "__main__":
    main()
