"""Tables 1 and 2 of CoLa-Diff (Jiang et al.): any contrasts to one in a latent space, and the ablations.

No method of the paper exists here yet, so no figure is transcribed.
"""

from scansynth.data.prepare import Preparation
from scansynth.recipes.tables.paper_table import DataSet, PaperTable, Row, Task

CITATION = "Jiang et al., CoLa-Diff: Conditional Latent Diffusion Model for Multi-modal MRI Synthesis"
TRAINING = (
    "Adam, learning rate 9.6e-5, batch 8, T = 1000 linear, moving average 0.9999; number of iterations not stated"
)
NOTES = (
    "Range and SSIM's window are not stated in the paper; here [0, 1] and Gaussian 11×11, σ 1.5.",
    "Slices: the paper chooses them by the area that they show and crops them to 224×224.",
)
CROPPED = Preparation(size=(224, 224, None), intensity="percentile")

BRATS = DataSet(
    "brats",
    "BRATS 2018, 285 glioma patients",
    ("T1w", "T2w", "T1ce", "FLAIR"),
    (190, 40, 55),
    "as published; axial slices chosen by the area that they show",
    CROPPED,
)
IXI = DataSet(
    "ixi",
    "IXI, 200 healthy subjects",
    ("T1w", "T2w", "PDw"),
    (140, 25, 35),
    "T2w and PDw registered onto T1w; axial slices chosen by the area that they show",
    CROPPED,
)
FOUR, THREE = BRATS.contrasts, IXI.contrasts
MISSING = (
    ("no_network", "w/o Modified latent diffusion network"),
    ("no_structure", "w/o Structural guidance"),
    ("no_weighting", "w/o Auto-weight adaptation"),
    ("no_filter", "w/o Similar cooperative filtering"),
)

TABLES = (
    PaperTable(
        "cola-diff-table1",
        "Table 1: each contrast from the others, BRATS and IXI",
        CITATION,
        (BRATS, IXI),
        TRAINING,
        (
            Task("brats", "brats", FOUR, ("T1w", "T2w", "T1ce", "FLAIR")),
            Task("ixi", "ixi", THREE, ("PDw", "T1w", "T2w")),
        ),
        tuple(Row(label, label) for label in ("MM-GAN", "Hi-Net", "ProvoGAN", "LDM", "CoLa-Diff")),
        "cola-diff",
        notes=NOTES,
    ),
    PaperTable(
        "cola-diff-table2",
        "Table 2: ablations (BRATS, T2w from the others), and T2w from one to three contrasts (BRATS, IXI)",
        CITATION,
        (BRATS, IXI),
        TRAINING,
        (
            Task("brats_from_t1", "brats", ("T1w", "T2w"), ("T2w",)),
            Task("brats_from_t1_t1ce", "brats", ("T1w", "T2w", "T1ce"), ("T2w",)),
            Task("brats_from_t1_t1ce_flair", "brats", FOUR, ("T2w",)),
            Task("ixi_from_t1", "ixi", ("T1w", "T2w"), ("T2w",)),
            Task("ixi_from_t1_pd", "ixi", THREE, ("T2w",)),
        ),
        (*(Row(name, f"CoLa-Diff {label}") for name, label in MISSING), Row("cola_diff", "CoLa-Diff")),
        "cola-diff",
        notes=(*NOTES, "The ablations stand for the task with all contrasts of BRATS alone."),
    ),
)
