"""Kill a training with SIGKILL again and again; compare what it ends in with an uninterrupted run, bit by bit.

    python benchmarks/kills.py random --kills 20 -o FILE.json    kills `scansynth train` from outside
    python benchmarks/kills.py sweep -o FILE.json                kills it before each single file operation

`random` starts the command in a process group of its own, kills the group at a drawn moment and starts the same
command again, until the run has ended; it opens another run until enough kills hit a live process. `sweep` forks a
process that kills itself before its k-th file operation in the run folder, for every k; what goes on is killed once
more at a drawn operation, and then left in peace.

Compared are all tensors of `last/` and `best/` (weights, averages, optimisers), their `state.json`, `config.yaml`,
`preparation.json`, pictures, and `metrics.jsonl` without wall-clock figures. Both use the CPU and need POSIX signals.
Results that were measured stand in `benchmarks/results/`.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kills_digest import hash_of
from kills_random import killed_at_random
from kills_sweep import SCENARIOS, swept
from scansynth.config import RunConfig
from scansynth.data.augmentation import Augmentation
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.recipes import find_recipe
from scansynth.training import checkpoint
from scansynth.training.run_folder import environment

CASES = ("regression_small", "syndiff_small")


def make_cohort(folder: Path) -> Path:
    """Four training subjects, one of them without FLAIR, and one each to validate and to test; slices of 32×32."""
    contrasts, missing = ("T1w", "T2w", "FLAIR"), {"phantom002": ("FLAIR",)}
    write_phantom_cohort(
        folder / "scans", 6, contrasts, layout="table", shape=(32, 32, 16), spacing=6.0, missing=missing
    )
    build_cohort(find_subjects(folder / "scans/table.csv"), folder / "cohort", Preparation(size=(32, 32, None)))
    return folder / "cohort"


def settings(case: str, full: bool = False, **training: Any) -> RunConfig[Any]:
    """A recipe with tiny networks (or its own: `full`), and a line, a checkpoint or a validation at almost every step.

    The regression is trained in float32 on augmented slices of three contrasts, SynDiff in bfloat16 and unpaired.
    """
    recipe = find_recipe(case)
    tiny: dict[str, Any] = {} if full else {"channels": 8, "multipliers": (1, 2)}
    often = {"log_every": 2, "checkpoint_every": 3, "validate_every": 7, "validation_slices": 2} | training
    if case == "syndiff_small":
        if not full:
            tiny |= {"latent_width": 16, "discriminator_channels": 8, "discriminator_blocks": 3}
            tiny |= {"translator_channels": 4}
        recipe = replace(recipe, settings=replace(recipe.settings, **tiny), contrasts=("T1w", "T2w"))
    else:
        all_on = Augmentation(flip=0.5, rotation_degrees=5, scale=0.05, shift=0.05, gain=0.1, gamma=0.1)
        data = replace(recipe.data, augmentation=all_on)
        recipe = replace(recipe, settings=replace(recipe.settings, **tiny), data=data)
        often["precision"] = "float32"
    return replace(recipe, training=replace(recipe.training, **often))


def source() -> str:
    """The hash of the code that was run."""
    folder = Path(checkpoint.__file__).parent
    return hash_of(*(path.read_bytes() for path in sorted(folder.rglob("*.py"))))


def main() -> int:
    """Run one of both; the exit code is 1 if anything was not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("random", "sweep"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="recipes")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS, help="of a sweep")
    parser.add_argument("--kills", type=int, default=20, help="at least so many a recipe (random)")
    parser.add_argument("--steps", type=int, default=120, help="training steps (random)")
    parser.add_argument("--full", action="store_true", help="the recipe's own networks, not tiny ones (random)")
    parser.add_argument("--only", type=int, help="operations to kill before; all by default (sweep)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="processes that train together (random)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine, results = environment(), []
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    cohort = make_cohort(folder)
    for case in arguments.cases:
        ways = arguments.scenarios if arguments.way == "sweep" else ["scansynth train"]
        for number, way in enumerate(ways):
            place = folder / f"{case}-{number}"
            place.mkdir()
            if arguments.way == "sweep":
                config = settings(case, steps=6, log_every=1, checkpoint_every=2, validate_every=3)
                found = swept(config, way, cohort, place, arguments.seed, arguments.only)
            else:
                config = settings(case, arguments.full, steps=arguments.steps)
                if arguments.devices > 1:  # each process has its part of a batch
                    config = replace(config, training=replace(config.training, batch_size=2 * arguments.devices))
                found = killed_at_random(
                    config, cohort, place, arguments.kills, arguments.seed, arguments.threads, arguments.devices
                )
            results.append({"recipe": case, **found})
            print(f"{case}, {way}: {found['kills']} kills, {'' if found['equal'] else 'NOT '}equal", flush=True)
    equal = all(result["equal"] for result in results)
    if arguments.output:
        found = {
            "environment": machine,
            "source": source(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
            "command": f"benchmarks/kills.py {' '.join(sys.argv[1:-2])}",
            "equal": equal,
            "results": results,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if equal:
        shutil.rmtree(folder)
    print(f"equal: {equal}" + ("" if equal else f"; runs are kept in {folder}"))
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
