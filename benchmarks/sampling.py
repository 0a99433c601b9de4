"""The same weights, drawn in several ways: sampler, spacing and number of times, and one noise for all slices.

    python benchmarks/sampling.py RUN … --cohort COHORT --target T2w -o benchmarks/results/sampling.json

Of each run the ways that its method has; the first test subjects; protocol `default`. Gradient energy and jumps between
slices are over the truth's own. The mean given the sources stands beside, where the method gives it in one call.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from image_quality_figures import of_image, summary
from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, whole_subject
from scansynth.diffusion.samplers import times
from scansynth.given import sources_for
from scansynth.noise import Noise, SharedAlongSlices
from scansynth.synthesis.run import Run

COUNTS = (6, 12, 25, 50)
WAYS = (
    ("ddim", "even"),
    ("ddim", "log-snr"),
    ("ancestral", "even"),
    ("ancestral", "log-snr"),
    ("dpm-solver", "log-snr"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cohort, rows = Cohort.open(arguments.cohort), []
    for folder in arguments.runs:
        run = Run.load(folder, "cpu")
        for way in ways(run, arguments.counts):
            rows.append({"run": folder.name, "recipe_steps": run.config.training.steps, **way})
            rows[-1] |= drawn(run, cohort, arguments.target, arguments.subjects, way)
            print(json.dumps(rows[-1]), flush=True)
            save(arguments.output, {"target": arguments.target, "subjects": arguments.subjects, "results": rows})


def ways(run: Run, counts: list[int]) -> Iterator[dict[str, Any]]:
    """What can be chosen of a run's sampling."""
    if run.method.stochastic and run.method.gives_mean:
        yield {"way": "mean"}
    known = {one.name for one in fields(run.config.settings)}
    for sampler, spacing in WAYS if "sampler" in known else [(None, "even"), (None, "log-snr")]:
        for count in counts:
            yield {"way": "draw", "sampler": sampler, "spacing": spacing, "calls": count, "shared_noise": False}
    yield {**{"way": "draw"}, **own(run), "shared_noise": True}


def own(run: Run) -> dict[str, Any]:
    """How the run's recipe draws."""
    settings = run.config.settings
    return {
        "sampler": getattr(settings, "sampler", None), "spacing": settings.spacing, "calls": settings.sampling_steps,
    }  # fmt: skip


def drawn(run: Run, cohort: Cohort, target: str, count: int, way: dict[str, Any]) -> dict[str, float]:
    """Means over subjects."""
    method, settings = run.method, run.config.settings
    if way["way"] == "draw":
        chosen = {"spacing": way["spacing"], "sampling_steps": way["calls"]}
        method.config = replace(settings, **chosen, **({"sampler": way["sampler"]} if way["sampler"] else {}))
        method.path = times(method.schedule, way["calls"], spacing=way["spacing"])
    found = []
    for subject in cohort.subjects("test")[:count]:
        readable = sources_for(target, run.config.contrasts)
        sources = [name for name, usable in zip(run.config.contrasts, readable[0], strict=True) if usable]
        crop = cohort.crop(subject, sources)
        batch = whole_subject(cohort, subject, run.config.contrasts, tissue=method.needs.tissue, crop=crop)
        noise = (SharedAlongSlices if way.get("shared_noise") else Noise)([(0, subject, 0)], run.device)
        made = run.make(
            from_network(batch["images"]), batch["available"] & readable, target, noise=noise,
            tissue=batch.get("tissue"), mean=way["way"] == "mean",
        )  # fmt: skip
        found.append(of_image(made.image, read_image(cohort, subject, target, acceleration=(), crop=crop).numpy()))
    return summary(found)


if __name__ == "__main__":
    main()
