"""Table 1 and Figure 5 of CG-DDPM: paired 3D translation, its accuracy and how much its samples differ.

Figure 5 shows bars without numbers.
"""

from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig
from scansynth.data.prepare import find_preparation
from scansynth.recipes.cg_ddpm import PAPER, STEPS_PER_EPOCH
from scansynth.reproduction.tables.paper_table import DataSet, PaperTable, PaperTask, Row, transcribed

CITATION = "CG-DDPM (cycle-guided denoising diffusion probability model for cross-modality MRI synthesis)"
TRAINING = (
    "AdamW, learning rate 4e-5, weight decay 1e-3, batch 4, N = 4000; 500 epochs each network alone, then jointly to "
    "1,000 epochs (T1w, T2w) and 850 (T1w, FLAIR)"
)
BRATS = DataSet(
    name="brats",
    title="BraTS 2020",
    contrasts=("T1w", "T2w", "FLAIR"),
    split=(178, 2, 18),
    scans="the first 178 scans train; two 64×64×16 patches a scan; no registration",
    preparation=find_preparation("cg-ddpm"),
)


def _task(name: str, second: str, epochs: int) -> PaperTask:
    """Both directions between T1w and a second contrast, from one run a method."""

    def change(base: RunConfig[Any]) -> RunConfig[Any]:
        samples = epochs * STEPS_PER_EPOCH * PAPER.batch_size
        training = replace(base.training, steps=samples // base.training.batch_size)
        settings = base.settings
        if base.method == "cg_ddpm":
            settings = replace(settings, joint_from=500 / epochs)
        return replace(base, contrasts=("T1w", second), settings=settings, training=training)

    return PaperTask(name, "brats", ("T1w", second), (second, "T1w"), change)


TASKS = (_task("t1_t2", "T2w", 1000), _task("t1_flair", "FLAIR", 850))
DIFFUSION = (
    Row("cg_ddpm", "CG-DDPM", "cg_ddpm", "cg_ddpm_small"),
    Row("iddpm", "IDDPM", "iddpm", "iddpm_small", by_target=True),
    Row("iddim", "IDDIM", "iddim", "iddim_small", by_target=True),
)
COLUMNS = ("ms_ssim_percent", "mae", "psnr_db")
PLACES = [("t1_t2", "T2w"), ("t1_t2", "T1w"), ("t1_flair", "FLAIR"), ("t1_flair", "T1w")]

TABLES = (
    PaperTable(
        name="cg-ddpm-table1",
        shows="Table 1: T1w and T2w, T1w and FLAIR, both ways",
        citation=CITATION,
        data=(BRATS,),
        training=TRAINING,
        tasks=TASKS,
        rows=(*DIFFUSION, Row("MRI-cGAN", "MRI-cGAN", "pix2pix", "pix2pix_small", by_target=True)),
        protocol="cg-ddpm",
        columns=COLUMNS,
        figures=transcribed(
            """
            cg_ddpm  96.8 0.011 28.6 | 97.1 0.012 28.7 | 96.6 0.011 28.8 | 97.1 0.013 27.7
            iddpm    91.4 0.013 28.8 | 94.5 0.024 24.1 | 95.8 0.012 28.2 | 95.7 0.014 28.1
            iddim    88.2 0.020 27.4 | 87.8 0.024 25.1 | 88.1 0.022 25.6 | 87.5 0.025 25.2
            MRI-cGAN 87.5 0.025 25.2 | 92.4 0.018 26.5 | 88.2 0.028 23.0 | 87.5 0.025 25.2
            """,
            PLACES,
            COLUMNS,
        ),
        notes=(
            "Of each method the paper measures the mean of five samples, here one sample is measured.",
            "IDDPM, IDDIM and MRI-cGAN make one contrast: each direction has a network of its own, which sees as many "
            "samples as each of CG-DDPM's two.",
            "The paper prints MS-SSIM as a share; here in per cent. Scales and range are not stated.",
            "MRI-cGAN: the paper tells no settings. Here pix2pix (Isola et al. 2017) on axial slices, trained on as "
            "many slices as CG-DDPM on patches; 256×256 are as many pixels as a patch of 64×64×16 has voxels.",
        ),
    ),
    PaperTable(
        name="cg-ddpm-fig5",
        shows="Figure 5: uncertainty and inconsistency of the samples (bars)",
        citation=CITATION,
        data=(BRATS,),
        training=TRAINING,
        tasks=TASKS,
        rows=DIFFUSION,
        protocol=None,
        columns=("uncertainty", "inconsistency"),
        measures="uncertainty and inconsistency by table (`evaluate --samples 5` gives them)",
        figures=transcribed(
            """
            cg_ddpm ? ? | ? ? | ? ? | ? ?
            iddpm   ? ? | ? ? | ? ? | ? ?
            iddim   ? ? | ? ? | ? ? | ? ?
            """,
            PLACES,
            ("uncertainty", "inconsistency"),
        ),
        notes=("Not readable: the figure shows bars without numbers.",),
    ),
)
