"""Settings of a run that is distilled from a trained one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from scansynth.config import RunConfig, read_yaml
from scansynth.errors import InputError
from scansynth.methods import find_method

RATE = 0.2
"""Of the teacher's learning rate, with which the student begins: at the whole of it, its first steps undo what the
teacher knew (`docs/results/few_calls.md`)."""


def distilled_config(
    teacher: Path,
    calls: int,
    *,
    training_steps: int | None = None,
    minutes: float = 0.0,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> RunConfig[Any]:
    """Settings of a run that is trained with `train(…, init=teacher, first_stage=teacher)`.

    Args:
        teacher: folder of the trained run.
        calls: network calls of a draw.
        training_steps: in all; None: as the teacher's.
        minutes: to train for instead; 0: by steps.
        batch_size: samples a step; None: as the teacher's.
        learning_rate: at the start; None: a fifth of the teacher's.
        seed: of the new run.

    Raises:
        InputError: if the folder holds no run, or one of a method that cannot be distilled.
    """
    if not (teacher / "config.yaml").is_file():
        raise InputError(f"{teacher}: not a run folder (no config.yaml); give the --run of a `scansynth train`")
    config = read_yaml(teacher / "config.yaml")
    try:
        settings = find_method(config.method).distilled_settings(config.settings, calls)
    except InputError as error:
        raise InputError(
            f"{teacher}: a run of {config.method}, which is not distilled: {error}; runs of ddpm and mrdiff can be "
            "(`scansynth methods --recipes ddpm`), and `scansynth train consistency` needs no teacher"
        ) from error
    rate = RATE * settings.learning_rate if learning_rate is None else learning_rate
    settings = replace(settings, learning_rate=rate)
    training = replace(
        config.training,
        steps=training_steps or config.training.steps,
        minutes=minutes,
        revisions=(),
        threads=0,
        precision="auto",
        batch_size=batch_size or config.training.batch_size,
    )
    return replace(config, settings=settings, training=training, seed=seed)
