"""Every small recipe of translation, trained at equal cost, drawn and measured; by several versions of the package.

    python benchmarks/image_quality.py prepare runs/quality
    python benchmarks/image_quality.py draw runs/quality --arm after
    PYTHONPATH=OTHER/src python benchmarks/image_quality.py draw runs/quality --arm before
    python benchmarks/image_quality.py table runs/quality --arm before after -o benchmarks/results/image-quality.json

`draw` trains one recipe and seed after the other and keeps what each makes of the test subjects: a draw, the mean given
the sources where the method gives it in one call, and of the first subjects more draws. It asks little of the package,
so that an older version draws too, whose images `table` then measures as it does all others: protocol `default`, and
jumps between slices and coverage of intervals beside it. Each training costs as much as `--steps` steps of
`regression_small`: processor seconds of a step of both are measured in turns. One thread. Stopped, the same command
goes on. With --cohort a prepared one in place of the phantoms; subjects are not named.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import save
from scansynth.config import RunConfig
from scansynth.data.build_cohort import build_cohort
from scansynth.data.build_tissue import TissueSettings
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.devices import Processes
from scansynth.evaluation.tasks import synthesise
from scansynth.method import Progress
from scansynth.recipes import find_recipe
from scansynth.synthesis.run import Run
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import find_first_stage, make_parts
from scansynth.training.train import train

RECIPES = (
    "regression_small", "ddpm_x0_small", "mrdiff_small", "ldm_small", "cola_diff_small", "cdpm_translator_small",
    "iddpm_small", "cg_ddpm_small", "syndiff_small_supervised", "pix2pix_small",
)  # fmt: skip
FIRST_STAGE = "autoencoder_small"
PHANTOMS = "phantoms"
SPLIT = {"train": 24, "val": 5, "test": 24}
SOURCE, TARGET = "T1w", "T2w"
DRAWS, OFTEN = 4, 2
"""Draws of each of the first `OFTEN` test subjects; of the others one."""
SHAPE, SPACING = (48, 64, 16), 3.3
WARM_UP, TURNS = 2, 9
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["prepare", "draw", "table"])
    parser.add_argument("folder", type=Path, help="where phantoms, runs and figures lie")
    parser.add_argument("--arm", nargs="+", default=["after"], help="names of versions")
    parser.add_argument("--cohort", type=Path, help="a prepared cohort in place of the phantoms")
    parser.add_argument("--steps", type=int, default=1000, help="of the regression, which each training costs")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument(
        "--decay", choices=["constant", "cosine", "cooldown"], help="of the learning rate, not the recipe's"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action == "prepare":
        print(f"{len(phantoms(arguments.folder).subjects('test'))} phantoms to test on")
        return
    cohort = Cohort.open(arguments.cohort or arguments.folder / PHANTOMS)
    places = [
        (arm, seed, recipe, arguments.folder / f"{cohort.folder.name}-{arguments.steps}" / arm / f"{recipe}-{seed}")
        for seed in arguments.seeds
        for recipe in arguments.recipes
        for arm in arguments.arm
    ]
    if arguments.action == "draw":
        for _, seed, recipe, place in places:
            draw(recipe, seed, cohort, place, arguments.steps, decay=arguments.decay)
        return
    from image_quality_figures import copied, figures  # newer than what may draw

    rows = [{"arm": "", "recipe": "copied source", **copied(cohort, SOURCE, TARGET)}]
    for arm, seed, recipe, place in places:
        if (place / "drawn.json").exists():
            rows.append({"arm": arm, "recipe": recipe, "seed": seed, **figures(place, cohort, SOURCE, TARGET)})
            print(json.dumps(rows[-1]), flush=True)
    save(arguments.output, {
        "cohort": cohort.folder.name, "regression_steps": arguments.steps, "direction": f"{SOURCE}→{TARGET}",
        "subjects": {split: len(cohort.subjects(split)) for split in SPLIT}, "results": rows,
    })  # fmt: skip


def phantoms(folder: Path, *, layout: str = "table") -> Cohort:
    """53 phantoms, slabs of 48×64×16 at 3.3 mm; in the BraTS layout half of them have the mask of their tumour."""
    data = folder / "data"
    if not data.exists():
        whole = folder / "data-being-made"
        write_phantom_cohort(
            whole, sum(SPLIT.values()), (SOURCE, TARGET), layout=layout, seed=0, shape=SHAPE, spacing=SPACING
        )
        whole.rename(data)
    listing = find_subjects(data / "table.csv" if layout == "table" else data)
    order = [split for split, count in SPLIT.items() for _ in range(count)]
    subjects = tuple(replace(one, split=split) for one, split in zip(listing.subjects, order, strict=True))
    whole = replace(listing, subjects=subjects)
    return build_cohort(whole, folder / PHANTOMS, Preparation(size=SHAPE), tissue=TissueSettings())


def draw(recipe: str, seed: int, cohort: Cohort, place: Path, steps: int, *, decay: str | None) -> None:
    """Train a recipe and keep its images, one file a subject: `draws` (n, X, Y, Z) and, of some methods, `mean`."""
    if (place / "drawn.json").exists():
        return
    first_stage = None
    if find_recipe(recipe).method in ("ldm", "cola_diff"):
        first_stage = place.parent / f"{FIRST_STAGE}-{seed}"
        trained(FIRST_STAGE, seed, cohort, first_stage, steps, None)
    config = trained(recipe, seed, cohort, place / "run", steps, first_stage, decay=decay)
    run, seconds = Run.load(place / "run", "cpu"), {}
    for number, subject in enumerate(cohort.subjects("test")):
        path = place / f"{number:02}.npz"
        if path.exists():
            continue
        asked = range(DRAWS if number < OFTEN and run.method.stochastic else 1)
        begun = time.process_time()
        images = {"draws": np.stack([one.image for one in synthesised(run, cohort, subject, asked)])}
        seconds[number] = (time.process_time() - begun) / len(asked)
        if run.method.stochastic and getattr(run.method, "gives_mean", False):
            images["mean"] = synthesised(run, cohort, subject, [None])[0].image
        temporary = place / "drawing.npz"
        np.savez_compressed(temporary, **images)
        temporary.rename(path)
    told = {"steps": config.training.steps, "sampling_steps": run.method.sampling_steps}
    told["processor_seconds_a_volume"] = round(float(np.median(list(seconds.values()) or [np.nan])), 2)
    (place / "drawn.json").write_text(json.dumps(told))
    print(place, told, flush=True)


def synthesised(run: Run, cohort: Cohort, subject: str, samples: Any) -> list[Any]:
    """Images of a subject from the source alone."""
    crop = cohort.crop(subject, (SOURCE,))
    return synthesise(run, cohort, subject, target=TARGET, seed=0, samples=samples, given=(SOURCE,), crop=crop)[0]


def trained(
    recipe: str,
    seed: int,
    cohort: Cohort,
    run: Path,
    steps: int,
    first_stage: Path | None,
    *,
    decay: str | None = None,
    contrasts: tuple[str, ...] = (SOURCE, TARGET),
) -> RunConfig[Any]:
    """Train a recipe at the cost of so many steps of the regression; one validation, at the end."""
    base = find_recipe(recipe)
    data = replace(base.data, defaults="adni") if base.method == "mrdiff" else base.data
    config = replace(base, contrasts=contrasts, data=data, seed=seed)
    budget = run.with_name(f"{run.name}-steps.json")
    if not budget.exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        budget.write_text(json.dumps(round(steps / relative_cost(config, cohort, first_stage))))
    training = replace(
        config.training, steps=json.loads(budget.read_text()), threads=1, checkpoint_every=None,
        validate_every=1_000_000, validation_slices=1,
    )  # fmt: skip
    if decay is not None:  # older versions have no such setting
        training = replace(training, decay=decay)
    return train(replace(config, training=training), cohort, run, device=CPU, first_stage=first_stage)


def relative_cost(config: RunConfig[Any], cohort: Cohort, first_stage: Path | None) -> float:
    """Processor seconds of a training step over those of the regression, in turns: the median of ratios."""
    other = replace(find_recipe("regression_small"), contrasts=config.contrasts)
    own, reference = stepper(config, cohort, first_stage), stepper(other, cohort, None)
    ratios = []
    for number in range(WARM_UP + TURNS):
        share = max(number - WARM_UP, 0) / TURNS
        ratios.append(own(number, share) / reference(number, share))
    return float(np.median(ratios[WARM_UP:]))


def stepper(config: RunConfig[Any], cohort: Cohort, first_stage: Path | None) -> Callable[[int, float], float]:
    """Makes the training step of a number, at a share of the training; tells its processor seconds."""
    processes = Processes(CPU)
    stage = find_first_stage(config, cohort, Path("nowhere"), given=first_stage, overwrite=False, processes=processes)
    method, dataset = make_parts(config, cohort, processes, first_stage=stage)
    engine, size = Engine(method, CPU, "float32"), config.training.batch_size

    def one(number: int, share: float) -> float:
        begun = time.process_time()
        items = [dataset[number * size + place] for place in range(size)]
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
        progress = Progress(int(share * config.training.steps), config.training.steps, 0.0)
        step(engine, batch, config, number, progress)
        return time.process_time() - begun

    return one


if __name__ == "__main__":
    main()
