"""Table 1 of cDPM: whole 3D brain MRIs made without a source.

No method of the paper exists here yet, so no figure is transcribed.
"""

from scansynth.data.prepare import Preparation
from scansynth.recipes.tables.paper_table import DataSet, PaperTable, Row, Task

T1W = DataSet(
    "t1w",
    "1,262 T1w of ADNI-1, UCSF and SRI International, all of which train",
    ("T1w",),
    None,
    "denoised, bias-corrected, skull-stripped, affinely registered to a template; 128×128×128 voxels of "
    "1.375×1.375×1 mm",
    Preparation(spacing=(1.375, 1.375, 1.0), size=(128, 128, 128), intensity="percentile"),
)

TABLES = (
    PaperTable(
        "cdpm-table1",
        "Table 1: quality of 500 synthetic T1w",
        "Peng et al., Generating Realistic Brain MRIs via a Conditional Diffusion Probabilistic Model, MICCAI 2023",
        (T1W,),
        "AdamW, learning rate 1e-4, batch 3, 200,000 iterations, at most 20 slices a sample",
        (Task("t1w", "t1w", ("T1w",), ("T1w",)),),
        tuple(
            Row(label, label)
            for label in ("3D-VAE-GAN", "3D-GAN-GP", "3D-α-WGAN", "CCE-GAN", "HA-GAN", "3D-DPM", "cDPM")
        ),
        None,
        (),
        "MS-SSIM of pairs, MMD and FID of whole sets",
    ),
)
