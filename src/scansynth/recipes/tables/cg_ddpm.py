"""Table 1 and Figure 5 of CG-DDPM: paired 3D translation, its accuracy and how much its samples differ.

No method of the paper exists here yet, so no figure is transcribed.
"""

from scansynth.data.prepare import Preparation
from scansynth.recipes.tables.paper_table import DataSet, PaperTable, Row, Task

CITATION = "CG-DDPM (cycle-guided denoising diffusion probability model for cross-modality MRI synthesis)"
TRAINING = (
    "AdamW, learning rate 4e-5, weight decay 1e-3, batch 4, N = 4000; 500 epochs each network alone, then jointly to "
    "1,000 epochs (T1w, T2w) and 850 (T1w, FLAIR)"
)
BRATS = DataSet(
    "brats",
    "BraTS 2020",
    ("T1w", "T2w", "FLAIR"),
    (178, 2, 18),
    "the first 178 scans train; two 64×64×16 patches a scan; no registration",
    Preparation(spacing=(1.0, 1.0, 6.0), size=(256, 256, 32), intensity="percentile"),
)
TASKS = (
    Task("t1_t2", "brats", ("T1w", "T2w"), ("T2w", "T1w")),
    Task("t1_flair", "brats", ("T1w", "FLAIR"), ("FLAIR", "T1w")),
)
DIFFUSION = tuple(Row(label, label) for label in ("CG-DDPM", "IDDPM", "IDDIM"))

TABLES = (
    PaperTable(
        "cg-ddpm-table1",
        "Table 1: T1w and T2w, T1w and FLAIR, both ways",
        CITATION,
        (BRATS,),
        TRAINING,
        TASKS,
        (*DIFFUSION, Row("MRI-cGAN", "MRI-cGAN")),
        "cg-ddpm",
        ("ms_ssim_percent", "mae", "psnr_db"),
        notes=("Of each method, the mean of five samples is measured.", "The paper does not state the range of PSNR."),
    ),
    PaperTable(
        "cg-ddpm-fig5",
        "Figure 5: uncertainty and inconsistency of the samples (bars)",
        CITATION,
        (BRATS,),
        TRAINING,
        TASKS,
        DIFFUSION,
        None,
        (),
        "uncertainty and inconsistency over five samples",
    ),
)
