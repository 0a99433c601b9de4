"""What a draw in few network calls is worth: a trained ddpm in 50 to 1 calls, and distilled to 4, 2 and 1.

    scansynth distill TEACHER --cohort COHORT --run student --steps 1 --training.steps 186
    scansynth distill TEACHER --cohort COHORT --run student-fast --steps 1 --training.steps 186 \\
        --settings.learning-rate 5e-4
    scansynth train ddpm_x0_small --cohort COHORT --run DIRECT --settings.steps 4 --settings.noise cosine \\
        --settings.sampling-steps 4 --settings.sampler ddim --settings.spacing even
    python benchmarks/few_calls.py TEACHER --student student student-fast --direct DIRECT --cohort COHORT \\
        --folder runs/few-calls -o benchmarks/results/few-calls.json

One training of a student serves for all numbers of calls, as it is the same. The teacher's times are those of its
recipe for 12 calls and more, the student's for fewer, which suit it better than its own. The third run knows no other
times than those that it is drawn at: it was trained with T = 4, and has no discriminator. First test subjects; of the
first two four draws each, for the coverage of 90 % intervals, where a draw has 12 calls or fewer; protocol `default`.
One thread. Stopped, the same command goes on: what is drawn lies in `--folder`.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_quality import DRAWS, OFTEN, SOURCE, TARGET, synthesised
from image_quality_figures import copied, figures
from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.diffusion.distillation import few_times
from scansynth.diffusion.samplers import times
from scansynth.diffusion.schedule import Schedule
from scansynth.synthesis.run import Run

TEACHER, STUDENT, DIRECT = (50, 12, 4, 2, 1), (4, 2, 1), (4, 2)
FEW, MOST = 4, 12
"""Calls up to which the teacher is drawn at the student's times, and up to which several draws are made."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--student", type=Path, nargs="*", default=[])
    parser.add_argument("--direct", type=Path)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where images are kept")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--calls", type=int, nargs="+", default=TEACHER, help="of the teacher")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cohort, rows = Cohort.open(arguments.cohort), []
    rows.append({"run": "copied source", **copied(cohort, SOURCE, TARGET, arguments.subjects)})
    arms: Sequence[tuple[str, Path | None, Sequence[int], Callable[[Schedule, int], list[int]]]] = (
        ("teacher", arguments.teacher, arguments.calls, teachers_times),
        *((folder.name, folder, STUDENT, few_times) for folder in arguments.student),
        ("direct", arguments.direct, DIRECT, times),
    )
    for name, folder, counts, path in arms:
        if folder is None:
            continue
        run = Run.load(folder, "cpu")
        method: Any = run.method
        for calls in counts:
            method.path = path(method.schedule, calls)
            method.config = replace(run.config.settings, sampling_steps=calls)
            place = arguments.folder / f"{name}-{calls}"
            draw(run, cohort, place, arguments.subjects)
            row = {"run": name, "calls": calls, "times": method.path if calls <= FEW else "log-snr"}
            rows.append(row | figures(place, cohort, SOURCE, TARGET, arguments.subjects))
            print(json.dumps(rows[-1]), flush=True)
            save(arguments.output, {
                "cohort": cohort.folder.name, "direction": f"{SOURCE}→{TARGET}", "subjects": arguments.subjects,
                "training_steps": {
                    one: Run.load(place, "cpu").config.training.steps for one, place, *_ in arms if place
                },
                "results": rows,
            })  # fmt: skip


def teachers_times(schedule: Schedule, calls: int) -> list[int]:
    """Even in log-SNR, as its recipe has it; of few that would leave the first step nearly all of the way."""
    return few_times(schedule, calls) if calls <= FEW else times(schedule, calls, spacing="log-snr")


def draw(run: Any, cohort: Cohort, place: Path, count: int) -> None:
    """Keep the images of the first subjects, one file each: `draws` (n, X, Y, Z)."""
    place.mkdir(parents=True, exist_ok=True)
    for number, subject in enumerate(cohort.subjects("test")[:count]):
        path = place / f"{number:02}.npz"
        if path.exists():
            continue
        asked = range(DRAWS if number < OFTEN and len(run.method.path) <= MOST else 1)
        begun = time.process_time()
        images = np.stack([one.image for one in synthesised(run, cohort, subject, asked)])
        told: dict[str, Any] = {"processor_seconds_a_volume": round((time.process_time() - begun) / len(asked), 2)}
        temporary = place / "drawing.npz"
        np.savez_compressed(temporary, draws=images)
        (place / "drawn.json").write_text(json.dumps(told))
        temporary.rename(path)


if __name__ == "__main__":
    main()
