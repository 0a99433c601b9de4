"""Table 1 and Figure 4 of MRDiff (Shin et al.): several contrasts to one, and the ablations.

No method of the paper exists here yet, so no figure is transcribed.
"""

from scansynth.data.prepare import Preparation
from scansynth.recipes.tables.paper_table import DataSet, PaperTable, Row, Task

CITATION = "Shin et al., Physics-driven Signal Regularization in Diffusion Models for Multi-contrast MR Image Synthesis"
TRAINING = (
    "Adam, learning rate 2e-4, batch 8, T = 1000 and 50 sampling steps; 300,000 iterations (spine), 350,000 (ADNI)"
)
COLUMNS = ("psnr_db", "ssim_percent", "fsim", "gmsd")
NOTES = (
    "The paper does not say which contrast is the target.",
    "The paper tests over slices, the protocol over subjects.",
    "Range and SSIM's window are not stated in the paper; here [0, 1] and Gaussian 11×11, σ 1.5.",
)
PERCENTILE = Preparation(intensity="percentile")

ADNI = DataSet(
    "adni",
    "ADNI, 737 scans of people without cognitive impairment and with Alzheimer's disease",
    ("T1w", "T2w", "PDw"),
    None,
    "70 % train; 1,000 slices of 100 subjects test; sidecars with TR and TE",
    PERCENTILE,
)
SPINE = DataSet(
    "spine",
    "spine of one hospital, not public: 240 subjects, and 70 with bone metastasis or red marrow hyperplasia",
    ("T1w", "T2w"),
    None,
    "also fat-saturated T2w, which has no standard name here; 17 slices a subject; 2,040 slices train, 1,003 slices of "
    "the 70 subjects test; sidecars with TR and TE",
    PERCENTILE,
)
TASKS = (Task("spine", "spine", ("T1w", "T2w"), ()), Task("adni", "adni", ("T1w", "T2w", "PDw"), ()))


def _table(name: str, shows: str, rows: tuple[Row, ...]) -> PaperTable:
    return PaperTable(
        f"mrdiff-{name}", shows, CITATION, (SPINE, ADNI), TRAINING, TASKS, rows, "mrdiff", COLUMNS, notes=NOTES
    )


TABLES = (
    _table(
        "table1",
        "Table 1: comparison with six methods on spine and ADNI",
        tuple(Row(label, label) for label in ("HiNet", "ResViT", "BlochGAN", "CM", "cDPM", "M2DN", "MRDiff")),
    ),
    _table(
        "fig4",
        "Figure 4: effect of the components on spine and ADNI (bars)",
        (
            Row("l_g", "MRDiff (L_G)"),
            Row("l_d_without_physics", "MRDiff (L_G + L_D without M)"),
            Row("l_d", "MRDiff (L_G + L_D)"),
            Row("mrdiff", "MRDiff (L_G + L_D + L_CCT)"),
        ),
    ),
)
