"""What a run makes of the training subjects, for the run that builds on it and corrects it: made once, and kept.

It is made as a synthesis is: from a subject's other contrasts alone (`given.py`), as a whole volume, whatever slices
the two runs see. So the second run trains on what it will be given.
"""

import logging
from collections.abc import Sequence

import torch

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import Acceleration, from_network, whole_subject
from scansynth.given import given, sources_for
from scansynth.noise import Noise
from scansynth.training.first_stage import FirstStage

log = logging.getLogger(__name__)


@torch.no_grad()
def make_previous(
    stage: FirstStage, cohort: Cohort, targets: Sequence[str], acceleration: Acceleration, device: torch.device
) -> None:
    """Make the targets of the training subjects that are not made yet.

    Args:
        stage: the trained run.
        cohort: that it was trained on.
        targets: contrasts that the run which builds on it makes.
        acceleration: of the contrasts, as both runs see them.
        device: where to compute.
    """
    store, contrasts = stage.made(cohort, acceleration), stage.config.contrasts
    work = [
        (subject, target)
        for subject in cohort.subjects("train")
        for target in targets
        if target in cohort.available(subject)
        and stage.method.needs.suffice(cohort.available(subject), target, contrasts)
    ]
    missing = [one for one in work if not store.has(*one)]
    if missing:
        log.info("%s: making %d of %d training volumes by the first stage", cohort.folder, len(missing), len(work))
    method = stage.to(device).eval().method
    for subject, target in missing:
        whole = whole_subject(cohort, subject, contrasts, acceleration=acceleration, tissue=method.needs.tissue)
        shown = given(whole, sources_for(target, contrasts), neighbours=method.needs.neighbours)
        batch = {key: value.to(device) for key, value in shown.items()}
        noise = Noise([(stage.config.seed, subject, 0)], device)
        made = method.translate(batch, target, method.needs.windows(), noise).image
        store.write(subject, target, from_network(made)[0, 0].clamp(0, 1).cpu().numpy())
